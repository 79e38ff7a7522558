"""The sentences of the verdict against scores that were made up for the purpose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_runs import metric, write_run, write_seeds

from genzoo.errors import InputError
from genzoo_reports.cautions import cautions
from genzoo_reports.collect import collect
from genzoo_reports.tables import Table, build_table, summary_rows
from genzoo_reports.verdict import Verdict, verdicts


def table_of(*paths: Path) -> Table:
    return build_table(collect(paths))


def topic(table: Table, name: str) -> Verdict:
    return next(verdict for verdict in verdicts(table) if verdict.topic == name)


def said(verdict: Verdict) -> str:
    return " ".join((verdict.headline, *verdict.sentences))


def series(name: str, *values: float, **fields: Any) -> list[dict[str, Any]]:
    return [{name: metric(value, **fields)} for value in values]


def test_a_clear_win_is_stated_with_numbers_and_confidence(tmp_path: Path) -> None:
    good = write_seeds(tmp_path, "diffusion", series("fd", 0.100, 0.110, 0.105))
    bad = write_seeds(tmp_path, "vae", series("fd", 0.500, 0.511, 0.504))
    verdict = topic(table_of(*good, *bad), "Sample quality")
    assert verdict.headline == "diffusion leads"
    assert verdict.leader == "diffusion"
    assert "0.105 against 0.505 for vae" in verdict.sentences[0]
    assert "a difference of 0.400, 95 % interval" in verdict.sentences[0]
    assert "3 seeds" in verdict.sentences[0] and "p < 0.001" in verdict.sentences[0]


def test_a_tie_within_noise_has_no_winner(tmp_path: Path) -> None:
    one = write_seeds(tmp_path, "diffusion", series("fd", 0.10, 0.30, 0.17))
    two = write_seeds(tmp_path, "flow", series("fd", 0.20, 0.15, 0.25))
    worse = write_seeds(tmp_path, "gan", series("fd", 5.20, 5.11, 5.25))
    table = table_of(*one, *two, *worse)
    verdict = topic(table, "Sample quality")
    assert verdict.headline == "No difference shown"
    assert verdict.leader == ""
    assert "No difference shown between diffusion and flow" in verdict.sentences[0]
    assert verdict.sentences[0].endswith("gan is behind.")
    assert "fd" not in summary_rows(table)["best"]


def test_one_correction_covers_all_claims(tmp_path: Path) -> None:
    """Alone the difference is significant; among three claims like it, it is not."""
    names = ("fd", "recall", "coverage")

    def runs(model: str, offsets: tuple[float, ...], names: tuple[str, ...]) -> list[Path]:
        sign = {"fd": 1, "recall": -1, "coverage": -1}
        rows = [{name: 0.5 + sign[name] * offset for name in names} for offset in offsets]
        return write_seeds(tmp_path / str(len(names)), model, rows)

    better, worse = (0.0, 0.0, 0.0), (0.10, 0.14, 0.20)
    alone = table_of(*runs("flow", better, names[:1]), *runs("vae", worse, names[:1]))
    assert alone.claims["fd"].supported
    among = table_of(*runs("flow", better, names), *runs("vae", worse, names))
    assert among.claims["fd"].p_value == pytest.approx(alone.claims["fd"].p_value)
    assert among.claims["fd"].adjusted == pytest.approx(3 * (alone.claims["fd"].p_value or 0))
    assert not among.claims["fd"].supported


def test_a_leader_must_beat_every_other_model(tmp_path: Path) -> None:
    """The next best is beaten in every seed, but a wilder third model may be as good."""
    one = write_seeds(tmp_path, "diffusion", series("fd", 0.100, 0.101, 0.102))
    two = write_seeds(tmp_path, "flow", series("fd", 0.200, 0.201, 0.203))
    wild = write_seeds(tmp_path, "gan", series("fd", 0.05, 0.9, 0.1))
    claim = table_of(*one, *two, *wild).claims["fd"]
    assert claim.rival == "flow"
    assert claim.tied == ("gan",)
    assert not claim.supported


def test_one_seed_claims_no_confidence(tmp_path: Path) -> None:
    one = write_run(tmp_path / "a", "diffusion", 0, {"fd": 0.1, "two_sample_1nn": 0.55})
    two = write_run(tmp_path / "b", "vae", 0, {"fd": 0.9, "two_sample_1nn": 0.75})
    table = table_of(one, two)
    verdict = topic(table, "Sample quality")
    assert verdict.headline == "diffusion is ahead, unconfirmed"
    assert "one seed only, so no confidence is claimed" in said(verdict)
    assert "p =" not in said(verdict) and "interval" not in said(verdict)
    assert summary_rows(table)["best"] == {}
    assert any(note.startswith("One seed a model") for note in cautions(table))


def test_a_copying_model_that_leads_is_called_out(tmp_path: Path) -> None:
    def rows(fd: float, share: float) -> list[dict[str, Any]]:
        spread = (0.0, 0.1 * fd, 0.03 * fd)
        return [{"fd": fd + more, "train_nn_share": share} for more in spread]

    copier = write_seeds(tmp_path, "gan", rows(0.01, 0.81))
    honest = write_seeds(tmp_path, "diffusion", rows(0.10, 0.51))
    other = write_seeds(tmp_path, "vae", rows(0.40, 0.50))
    table = table_of(*copier, *honest, *other)
    quality = topic(table, "Sample quality")
    assert quality.headline == "gan is ahead by copying"
    assert quality.leader == "diffusion"
    assert "81 % of its samples lie nearer to a training item" in quality.sentences[0]
    assert "does not count" in quality.sentences[0]
    assert quality.sentences[1].startswith("Without it: diffusion makes")
    assert topic(table, "Memorization").headline == "gan copies"
    assert summary_rows(table)["best"] == {"fd": "diffusion"}
    assert any(note.startswith("gan copies its training data") for note in cautions(table))


def test_exact_copies_are_copying_whatever_the_share(tmp_path: Path) -> None:
    values = {"train_nn_share": 0.5, "duplicates": metric(200, n=1000, floor=0)}
    table = table_of(write_run(tmp_path / "a", "gan", 0, values))
    assert table.contenders[0].copies == "200 of 1,000 samples equal a real item exactly"
    few = {"train_nn_share": 0.5, "duplicates": metric(2, n=1000, floor=0)}
    assert table_of(write_run(tmp_path / "b", "gan", 0, few)).contenders[0].copies == ""


def test_samples_too_near_to_held_out_data_are_odd(tmp_path: Path) -> None:
    table = table_of(write_run(tmp_path / "a", "gan", 0, {"train_nn_share": 0.0}))
    verdict = topic(table, "Memorization")
    assert verdict.tone == "warn"
    assert "seen the held-out data" in said(verdict)


def test_controls_never_win(tmp_path: Path) -> None:
    good = write_seeds(tmp_path, "copycat", series("fd", 0.01, 0.01, 0.012), control=True)
    one = write_seeds(tmp_path, "diffusion", series("fd", 0.10, 0.11, 0.105))
    two = write_seeds(tmp_path, "vae", series("fd", 0.50, 0.511, 0.504))
    table = table_of(*good, *one, *two)
    assert topic(table, "Sample quality").leader == "diffusion"
    assert all("copycat" not in said(verdict) for verdict in verdicts(table))
    assert [model.label for model in table.controls] == ["copycat"]


def test_a_model_that_a_simple_control_beats_is_named(tmp_path: Path) -> None:
    weak = write_run(tmp_path / "a", "gan", 0, {"fd": 3.0})
    strong = write_run(tmp_path / "b", "vae", 0, {"fd": 1.0})
    control = write_run(tmp_path / "c", "gaussian", 0, {"fd": 2.0}, control=True)
    notes = " ".join(cautions(table_of(weak, strong, control)))
    assert "gan does not beat the control 'gaussian' in Fréchet distance" in notes
    assert "vae" not in notes


def test_what_another_runs_weights_cost_is_said(tmp_path: Path) -> None:
    """Beside the budget, which does not show it. Fails with: said of every model, or of none."""
    teacher = {"run": "runs/diffusion-s0", "seconds": 60.4}
    start = write_run(tmp_path / "a", "consistency", 0, {"fd": 1.0}, config={"init": teacher})
    own = write_run(tmp_path / "b", "vae", 0, {"fd": 1.0}, config={"init": None})
    notes = [note for note in cautions(table_of(start, own)) if "weights" in note]
    assert len(notes) == 1 and notes[0].startswith(
        "consistency started from the weights of runs/diffusion-s0, which took 60"
    )


def test_failed_runs_are_named_with_their_reason(tmp_path: Path) -> None:
    write_seeds(tmp_path / "runs", "vae", series("fd", 0.5, 0.6))
    write_run(tmp_path / "runs" / "gan-s0", "gan", 0, state="failed", reason="loss is nan at 310")
    write_run(tmp_path / "runs" / "flow-s0", "flow", 0, {"fd": 0.1}, state="interrupted")
    (tmp_path / "runs" / "vae-s9").mkdir()
    (tmp_path / "runs" / "vae-s9" / "config.json").write_text("{")
    (tmp_path / "compare.json").write_text('{"models": ["vae", "gan"], "seeds": 2}')
    table = table_of(tmp_path)
    notes = " ".join(cautions(table))
    assert "gan, seed 0: loss is nan at 310" in notes
    assert "flow, seed 0: not finished (state: interrupted)" in notes
    assert "vae-s9: " in notes and "config.json" in notes
    assert "gan, seed 1: planned, but it left no run folder" in notes
    assert table.model("flow").value("fd") is None
    assert topic(table, "Sample quality").headline == "vae only"


def test_likelihoods_of_different_labels_are_not_ranked(tmp_path: Path) -> None:
    def rows(label: str, *values: float) -> list[dict[str, Any]]:
        return series("bits_per_dim", *values, likelihood=label)

    flow = write_seeds(tmp_path, "flow", rows("bound", 2.30, 2.31, 2.32))
    vae = write_seeds(tmp_path, "vae", rows("bound", 2.60, 2.61, 2.62))
    ode = write_seeds(tmp_path, "diffusion", rows("estimate", 1.90, 1.91, 1.92))
    gan = write_seeds(tmp_path, "gan", [{"fd": 1.0}] * 3)
    verdict = topic(table_of(*flow, *vae, *ode, *gan), "Likelihood")
    assert verdict.headline == "flow leads among bounds"
    assert "Not ranked with them" in said(verdict)
    assert "diffusion 1.91 (estimate)" in said(verdict)
    assert "No value for gan" in said(verdict)


def test_likelihoods_of_one_label_say_which(tmp_path: Path) -> None:
    rows = series("bits_per_dim", 2.3, likelihood="bound")
    verdict = topic(table_of(*write_seeds(tmp_path, "flow", rows)), "Likelihood")
    assert "All are bounds" in said(verdict)


def test_what_was_not_evaluated_is_said(tmp_path: Path) -> None:
    table = table_of(write_run(tmp_path / "a", "gan", 0, None))
    for name in ("Sample quality", "Diversity", "Memorization", "Likelihood"):
        assert topic(table, name).headline == "Not evaluated"
    reason = metric(None, reason="needs 100 samples, has 10")
    table = table_of(write_run(tmp_path / "b", "gan", 0, {"fd": reason}))
    assert "needs 100 samples, has 10" in said(topic(table, "Sample quality"))


def test_equal_budgets_in_seconds_have_no_cheapest_model(tmp_path: Path) -> None:
    one = write_seeds(tmp_path, "gan", [{}] * 3, seconds=12.0)
    two = write_seeds(tmp_path, "vae", [{}] * 3, seconds=12.2)
    verdict = topic(table_of(*one, *two), "Training cost")
    assert verdict.headline == "Equal by design"


def test_speed_is_compared_as_a_ratio(tmp_path: Path) -> None:
    fast = write_seeds(tmp_path, "gan", series("samples_per_second", 50000, 51000, 52000))
    slow = write_seeds(tmp_path, "diffusion", series("samples_per_second", 500, 510, 520))
    verdict = topic(table_of(*fast, *slow), "Sampling speed")
    assert verdict.headline == "gan leads"
    assert "(100 times" in verdict.sentences[0]


def test_other_extractors_or_sample_numbers_are_refused(tmp_path: Path) -> None:
    first, second = ({"name": "classifier", "hash": h * 32} for h in ("aa", "bb"))
    one = write_run(tmp_path / "a", "gan", 0, {"fd": metric(0.1, features=first)})
    two = write_run(tmp_path / "b", "vae", 0, {"fd": metric(0.9, features=second)})
    with pytest.raises(InputError, match="a and b were judged in different feature spaces"):
        table_of(one, two)
    few = write_run(tmp_path / "c", "vae", 0, {"fd": metric(0.9, features=first, n=100)})
    with pytest.raises(InputError, match=r"samples \(797 and 100\); evaluate both with"):
        table_of(one, few)
    costs = write_run(tmp_path / "d", "vae", 0, {"training_seconds": metric(1.0, n=None)})
    assert table_of(one, costs).contenders


def test_one_likelihood_of_each_kind_is_no_ranking(tmp_path: Path) -> None:
    flow = write_run(tmp_path / "a", "flow", 0, {"nll_nats": metric(0.4, likelihood="exact")})
    vae = write_run(tmp_path / "b", "vae", 0, {"nll_nats": metric(2.1, likelihood="bound")})
    verdict = topic(table_of(flow, vae), "Likelihood")
    assert verdict.headline == "Not ranked" and verdict.leader == ""
    assert "flow 0.400 (exact)" in said(verdict) and "vae 2.10 (bound)" in said(verdict)


def test_a_leader_that_leans_on_its_training_data_is_not_praised_plainly(tmp_path: Path) -> None:
    near = [{"fd": 0.1 + s / 1e3, "train_nn_share": 0.58} for s in (0, 1, 2)]
    fair = [{"fd": 0.5 + s / 1e3, "train_nn_share": 0.50} for s in (0, 2, 1)]
    one, two = write_seeds(tmp_path, "gan", near), write_seeds(tmp_path, "vae", fair)
    table = table_of(*one, *two)
    verdict = topic(table, "Sample quality")
    assert (verdict.leader, verdict.tone) == ("gan", "warn")
    assert "58 % of its samples lie nearer to it" in said(verdict)
    assert topic(table, "Memorization").headline == "gan leans on training data"


def test_equal_gaps_in_every_seed_are_no_proof_of_certainty(tmp_path: Path) -> None:
    one = write_seeds(tmp_path, "gan", series("modes_covered", 8, 8, 8))
    two = write_seeds(tmp_path, "vae", series("modes_covered", 7, 7, 7))
    claim = table_of(*one, *two).claims["modes_covered"]
    assert claim.p_value == 0.25
    assert not claim.supported
