"""Plain sentences from the numbers: who leads, by how much, with which confidence.

No sentence says more than the claims of `genzoo_reports.tables` support: controls never win,
copiers are called out, one seed gives no confidence, and likelihoods are ranked within a label.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from genzoo.evaluation.catalogue import METRICS, distance
from genzoo_reports.claims import RATIOS, Claim, eligible, equal_cost
from genzoo_reports.groups import LEAK_SHARE, Model
from genzoo_reports.tables import Table
from genzoo_reports.wording import NOT_EVALUATED, arrow, compact, digits, join, percent, title

_NOUNS = {
    "fd": "Fréchet distance to real data",
    "two_sample_1nn": "1-NN two-sample accuracy",
    "recall": "recall",
    "coverage": "coverage",
    "modes_covered": "number of modes covered",
    "train_nn_share": "train-NN share",
    "bits_per_dim": "bits per dimension",
    "nll_nats": "negative log-likelihood (nats)",
    "training_seconds": "training time",
    "samples_per_second": "sampling speed",
}
_LEADS = {
    "fd": "makes the samples closest to real data",
    "two_sample_1nn": "is the hardest to tell from real data by nearest neighbours",
    "recall": "reaches the largest part of the real data",
    "coverage": "covers the most real items",
    "modes_covered": "finds the most modes",
    "bits_per_dim": "gives held-out images the highest likelihood",
    "nll_nats": "gives held-out points the highest likelihood",
    "training_seconds": "trains fastest",
    "samples_per_second": "draws samples fastest",
}


@dataclass(frozen=True)
class Verdict:
    """One topic of the first screen.

    Attributes:
        topic: two words.
        question: what a stranger would ask.
        headline: the answer in a few words.
        tone: ``lead``, ``tie``, ``plain``, ``warn`` or ``none``, for the page's colours.
        sentences: the answer in full, most important first.
        metric: the one that is drawn beside the sentences; empty if there is none.
        leader: label of the model that the headline credits; empty if none.
    """

    topic: str
    question: str
    headline: str
    tone: str
    sentences: tuple[str, ...]
    metric: str = ""
    leader: str = ""


@dataclass
class _Answer:
    headline: str
    tone: str
    leader: str = ""
    sentences: list[str] = field(default_factory=list)


def verdicts(table: Table) -> list[Verdict]:
    """All topics, in the order of the page."""
    modes = "modes_covered" in table.metrics
    nll = "nll_nats" if "nll_nats" in table.metrics else "bits_per_dim"
    diversity = ["modes_covered", "recall", "coverage"] if modes else ["recall", "coverage"]
    return [
        _race(
            table,
            "Sample quality",
            "Whose samples are most like the real data?",
            ["fd", "two_sample_1nn"],
        ),
        _race(table, "Diversity", "Whose samples show all that the data show?", diversity),
        _memorization(table),
        _likelihood(table, nll),
        _training(table),
        _race(table, "Sampling speed", "Who draws samples fastest?", ["samples_per_second"]),
    ]


def _race(table: Table, topic: str, question: str, metrics: Sequence[str]) -> Verdict:
    """A topic that has a winner, by its first metric; the others agree or not."""
    known = [name for name in metrics if _values(table, name)]
    if not known:
        reason = next((why for name in metrics if (why := _reason(table, name))), NOT_EVALUATED)
        sentence = f"Not evaluated{'' if reason == NOT_EVALUATED else f': {reason}'}."
        return Verdict(topic, question, "Not evaluated", "none", (sentence,))
    answer = _answer(table, known[0])
    answer.sentences += [_second_opinion(table, name, answer) for name in known[1:]]
    return Verdict(
        topic,
        question,
        answer.headline,
        answer.tone,
        tuple(answer.sentences),
        known[0],
        answer.leader,
    )


def _values(table: Table, name: str) -> list[Model]:
    return [model for model in table.contenders if model.value(name) is not None]


def _reason(table: Table, name: str) -> str:
    reasons = [m.metrics[name].reason for m in table.contenders if name in m.metrics]
    return next((reason for reason in reasons if reason), "")


def _shown(model: Model, name: str) -> str:
    unit = {"training_seconds": " s", "samples_per_second": " samples/s"}.get(name, "")
    return digits(model.value(name) or 0.0, name) + unit


def _answer(table: Table, name: str) -> _Answer:
    """The headline and first sentence on one metric."""
    copier = _leading_copier(table, name)
    ranked = eligible(name, table.contenders)
    claim = table.claims.get(name)
    if claim is None:
        answer = _alone(ranked, name)
    elif claim.note:
        answer = _without_confidence(table, claim)
    elif claim.supported:
        answer = _supported(table, claim)
    else:
        answer = _tied(table, claim)
    if copier is None:
        return _with_caveat(answer, ranked, name)
    callout = (
        f"{copier.label} has the best {_NOUNS[name]} ({_shown(copier, name)}), but it copies: "
        f"{copier.copies}. That is memory, not quality, and does not count as a lead."
    )
    rest = [f"Without it: {sentence}" for sentence in answer.sentences] if ranked else []
    return _Answer(f"{copier.label} is ahead by copying", "warn", answer.leader, [callout, *rest])


def _with_caveat(answer: _Answer, ranked: Sequence[Model], name: str) -> _Answer:
    """Not more praise than a leader deserves that leans on its training data."""
    if ranked and ranked[0].leans and METRICS[name].group in ("fidelity", "diversity", "modes"):
        share = percent(ranked[0].value("train_nn_share") or 0.0)
        answer.tone = "warn"
        answer.sentences.append(
            f"But {ranked[0].label} leans on its training data ({share} of its samples lie nearer "
            "to it than to held-out data, 50 % is fair), so part of this may be memory."
        )
    return answer


def _leading_copier(table: Table, name: str) -> Model | None:
    """The contender that would win a quality or diversity metric, if it copies."""
    group = METRICS[name].group
    ready = _values(table, name)
    if group not in ("fidelity", "diversity", "modes") or not ready:
        return None
    better = METRICS[name].better
    first = min(ready, key=lambda model: distance(better, model.value(name) or 0.0))
    return first if first.copies else None


def _alone(ranked: Sequence[Model], name: str) -> _Answer:
    if not ranked:
        return _Answer("No model to credit", "none", "", ["No other model was evaluated."])
    only = ranked[0]
    sentence = f"Only {only.label} can be judged: its {_NOUNS[name]} is {_shown(only, name)}."
    return _Answer(f"{only.label} only", "plain", "", [sentence])


def _against(table: Table, claim: Claim, other: str = "") -> str:
    """``0.12 against 0.31 for flow``; `other` than the next best where given."""
    leader, rival = table.model(claim.leader), table.model(other or claim.rival)
    return f"{_shown(leader, claim.metric)} against {_shown(rival, claim.metric)} for {rival.label}"


def _gap(claim: Claim) -> str:
    """By how much, with its interval."""
    bounds = sorted(abs(b) for b in (claim.low, claim.high) if b is not None)
    same_side = claim.low is not None and claim.high is not None and claim.low * claim.high > 0
    if claim.metric in RATIOS:
        factor = claim.gap if claim.gap >= 1 else 1 / claim.gap
        ends = sorted(b if claim.gap >= 1 else 1 / b for b in bounds if b)
        spread = f", 95 % interval {ends[0]:.3g} to {ends[-1]:.3g}" if len(ends) == 2 else ""
        return f"{factor:.3g} times{spread}"
    spread = f", 95 % interval {digits(bounds[0])} to {digits(bounds[-1])}" if same_side else ""
    return f"a difference of {digits(abs(claim.gap))}{spread}"


def _p_value(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.2g}"


def _supported(table: Table, claim: Claim) -> _Answer:
    sentence = (
        f"{claim.leader} {_LEADS[claim.metric]}: {_NOUNS[claim.metric]} {_against(table, claim)}, "
        f"the next best ({_gap(claim)}; {claim.seeds} seeds, {_p_value(claim.adjusted or 0.0)} "
        "corrected)."
    )
    return _Answer(f"{claim.leader} leads", "lead", claim.leader, [sentence])


def _tied(table: Table, claim: Claim) -> _Answer:
    others = list(claim.tied)
    seeds = min(len(table.model(m).metrics[claim.metric].by_seed) for m in [claim.leader, *others])
    beaten = [
        model.label
        for model in eligible(claim.metric, table.contenders)
        if model.label not in (*others, claim.leader)
    ]
    sentence = (
        f"No difference shown between {join([claim.leader, *others])}: {claim.leader} has the best "
        f"{_NOUNS[claim.metric]} on average, {_against(table, claim, others[0])}, but {seeds} "
        f"seeds do not rule out chance ({_p_value(claim.adjusted or 1.0)} corrected)."
    )
    if beaten:
        sentence += f" {join(beaten)} {'is' if len(beaten) == 1 else 'are'} behind."
    return _Answer("No difference shown", "tie", "", [sentence])


def _without_confidence(table: Table, claim: Claim) -> _Answer:
    sentence = (
        f"{claim.leader} has the best {_NOUNS[claim.metric]}: {_against(table, claim)}. "
        f"There are {claim.note} only, so no confidence is claimed."
    ).replace("There are one seed only", "This is one seed only")
    return _Answer(f"{claim.leader} is ahead, unconfirmed", "plain", "", [sentence])


def _second_opinion(table: Table, name: str, first: _Answer) -> str:
    """What another metric of the same topic says, in one sentence."""
    label = f"By {title(name)} ({arrow(name)})" if arrow(name) else f"By {title(name)}"
    claim, copier = table.claims.get(name), _leading_copier(table, name)
    prefix = f"{copier.label} is ahead again by copying; else " if copier else ""
    if claim is None:
        ranked = eligible(name, table.contenders)
        shown = f"{ranked[0].label} has {_shown(ranked[0], name)}" if ranked else "no one is left"
        return f"{label}, {prefix}{shown}."
    if claim.note:
        return f"{label}, {prefix}{claim.leader} is ahead, unconfirmed: {_against(table, claim)}."
    if claim.supported:
        also = " too" if claim.leader == first.leader else ""
        p_value = _p_value(claim.adjusted or 0.0)
        return f"{label}, {prefix}{claim.leader} leads{also}: {_against(table, claim)} ({p_value})."
    tied = join([claim.leader, *claim.tied])
    values = _against(table, claim, claim.tied[0])
    return f"{label}, {prefix}no difference is shown between {tied}: {values}."


def _memorization(table: Table) -> Verdict:
    """Not a race: does anyone copy, and is anyone suspiciously far from its training data?"""
    topic, question = "Memorization", "Are the samples new, or copies of the training data?"
    known = _values(table, "train_nn_share")
    counted = _values(table, "duplicates")
    copiers = [model for model in table.contenders if model.copies]
    leaks = [m for m in known if (m.value("train_nn_share") or 0.0) < LEAK_SHARE]
    if not known and not counted and not copiers:
        return Verdict(topic, question, "Not evaluated", "none", ("Not evaluated.",))
    sentences = [f"{model.label} copies: {model.copies}." for model in copiers]
    for model in leaks:
        sentences.append(
            f"Only {percent(model.value('train_nn_share') or 0.0)} of the samples of {model.label} "
            "lie nearer to training than to held-out data, less than the fair 50 %: either it has "
            "seen the held-out data, or its samples are far from both."
        )
    leaning = [model for model in known if model.leans]
    for model in leaning:
        share = percent(model.value("train_nn_share") or 0.0)
        sentences.append(
            f"{model.label} leans on its training data: {share} of its samples lie nearer to a "
            "training item than to a held-out one; 50 % is fair."
        )
    fine = [model for model in known if model not in (*copiers, *leaks, *leaning)]
    if fine:
        shares = sorted(model.value("train_nn_share") or 0.0 for model in fine)
        spread = " to ".join(dict.fromkeys([percent(shares[0]), percent(shares[-1])]))
        names = join([m.label for m in fine]) if len(fine) < len(known) else "any model"
        sentences.append(
            f"No copying shown for {names}: {spread} of the samples lie nearer to a training item "
            f"than to a held-out one, and 50 % is fair{_control_share(table)}."
        )
    if counted:
        listed = ", ".join(
            f"{m.label} {digits(m.value('duplicates') or 0.0, 'duplicates')}" for m in counted
        )
        none = all(model.value("duplicates") == 0 for model in counted)
        sentences.append("No sample equals a real item." if none else f"Exact copies: {listed}.")
    headline, tone = "No copying shown", "lead"
    if copiers:
        does = "copies" if len(copiers) == 1 else "copy"
        headline, tone = f"{join([m.label for m in copiers])} {does}", "warn"
    elif leaks:
        look = "looks" if len(leaks) == 1 else "look"
        headline, tone = f"{join([m.label for m in leaks])} {look} odd", "warn"
    elif leaning:
        lean = "leans" if len(leaning) == 1 else "lean"
        headline, tone = f"{join([m.label for m in leaning])} {lean} on training data", "warn"
    metric = "train_nn_share" if known else "duplicates"
    return Verdict(topic, question, headline, tone, tuple(sentences), metric)


def _control_share(table: Table) -> str:
    for model in table.controls:
        if model.label == "copycat" and (share := model.value("train_nn_share")) is not None:
            return f" (the control that does copy: {percent(share)})"
    return ""


def _likelihood(table: Table, name: str) -> Verdict:
    """Ranked within exact, bound or estimate, and said so."""
    topic, question = "Likelihood", "How probable does the model find real data it never saw?"
    known = _values(table, name)
    if not known:
        return Verdict(topic, question, "Not evaluated", "none", ("Not evaluated.",))
    without = [model for model in table.contenders if model not in known]
    labels: dict[str, list[Model]] = {}
    for model in known:
        labels.setdefault(model.metrics[name].likelihood or "unlabelled", []).append(model)
    ranked_label = eligible(name, table.contenders)[0].metrics[name].likelihood or "unlabelled"
    answer = _answer(table, name)
    if len(labels) > 1 and max(map(len, labels.values())) == 1:
        answer = _Answer("Not ranked", "plain")
    sentences = list(answer.sentences)
    if len(labels) == 1:
        sentences.append(_label_meaning(ranked_label))
    else:
        apart = "; ".join(
            f"{join([f'{m.label} {_shown(m, name)}' for m in models])} ({label})"
            for label, models in labels.items()
            if label != ranked_label
        )
        same = join([model.label for model in labels[ranked_label]])
        alone = (
            f"Each number is of another kind, and exact values, bounds and estimates are not "
            f"ranked against each other: {_shown_same(labels, ranked_label, name)}; {apart}."
        )
        sentences.append(
            f"Ranked among numbers of one kind only ({ranked_label}: {same}). Not ranked with "
            f"them, because exact values, bounds and estimates differ in meaning: {apart}."
            if answer.sentences
            else alone
        )
    if without:
        reasons = {table.model(m.label).metrics[name].reason or NOT_EVALUATED for m in without}
        why = f" ({'; '.join(sorted(reasons))})" if len(reasons) <= 2 else ""
        sentences.append(f"No value for {join([m.label for m in without])}{why}.")
    headline = answer.headline
    if answer.leader and len(labels) > 1:
        headline = f"{answer.leader} leads among {plural(ranked_label)}"
    return Verdict(topic, question, headline, answer.tone, tuple(sentences), name, answer.leader)


def _shown_same(labels: Mapping[str, Sequence[Model]], label: str, name: str) -> str:
    return join([f"{model.label} {_shown(model, name)} ({label})" for model in labels[label]])


def plural(label: str) -> str:
    """``bounds`` for ``bound``."""
    return {"bound": "bounds", "estimate": "estimates", "exact": "exact values"}.get(label, label)


def _label_meaning(label: str) -> str:
    meaning = {
        "bound": "All are bounds: the true value is at most this.",
        "exact": "All are exact.",
        "estimate": "All are estimates, with solver and trace errors.",
    }
    return meaning.get(label, "Whether these are exact or bounds was not recorded.")


def _training(table: Table) -> Verdict:
    """Time is the budget in most reports: then it is equal, and what it bought is told."""
    topic, question = "Training cost", "What did learning take?"
    known = _values(table, "training_seconds")
    if not known:
        return Verdict(topic, question, "Not evaluated", "none", ("Not evaluated.",))
    extra = _bought(table)
    if not equal_cost(table.contenders):
        answer = _answer(table, "training_seconds")
        sentences = (*answer.sentences, *extra)
        return Verdict(
            topic,
            question,
            answer.headline,
            answer.tone,
            sentences,
            "training_seconds",
            answer.leader,
        )
    seconds = digits(known[0].value("training_seconds") or 0.0, "training_seconds")
    sentence = f"Every model trained for the same time, {seconds} s a run, so none is cheaper."
    metric = "training_images_per_second"
    drawn = metric if _values(table, metric) else "training_seconds"
    return Verdict(topic, question, "Equal by design", "plain", (sentence, *extra), drawn)


def _bought(table: Table) -> list[str]:
    """What the training time was spent on."""
    name = "training_images_per_second"
    known = sorted(_values(table, name), key=lambda m: -(m.value(name) or 0.0))
    sentences = []
    if len(known) > 1:
        most, least = known[0], known[-1]
        sentences.append(
            f"Per second, {most.label} went through the most training items "
            f"({digits(most.value(name) or 0.0, name)}), {least.label} through the fewest "
            f"({digits(least.value(name) or 0.0, name)})."
        )
    sized = _values(table, "parameters")
    if sized:
        listed = ", ".join(f"{m.label} {compact(m.value('parameters') or 0.0)}" for m in sized)
        sentences.append(f"Parameters: {listed}.")
    return sentences
