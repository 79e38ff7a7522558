"""A masked autoregressive network on digits: exact probabilities, and one pixel after the other."""

from __future__ import annotations

from genzoo.course.assignments.autoregressive import checks
from genzoo.course.assignments.autoregressive.drawing import draw_figures
from genzoo.course.kit import Check, Figure, Hidden, Kit, Mutant

_CDF = {"sampling": "inverse-cdf"}
_GUMBEL = {"sampling": "gumbel-max"}
_ONCE = """        logits_of = self.logits(levels, cond)
        for k in range(known, self.pixels):
            pixel = self.order[k]
            logits = logits_of[:, pixel]
"""
_EACH = """        for k in range(known, self.pixels):
            pixel = self.order[k]
            logits = self.logits(levels, cond)[:, pixel]
"""

KIT = Kit(
    title="An autoregressive model",
    data="digits",
    choices={
        "order": ["raster", "columns", "serpentine"],
        "degrees": ["cyclic", "spread"],
        "sampling": ["inverse-cdf", "gumbel-max"],
    },
    steps=800,
    minutes=1,
    hidden=(
        Hidden("masks", "the order, the degrees and the masks", 20, ("order", "degrees", "mask")),
        Hidden(
            "likelihood",
            "log-probabilities, which sum to one, and bits",
            20,
            ("masses", "bits", "log-prob", "chain"),
            whole=True,
        ),
        Hidden("pick", "one level drawn from its probabilities", 15, ("pick",)),
        Hidden("complete", "images are completed in the order", 15, ("complete",)),
    ),
    questions={"Learning": 10, "Samples": 5, "Completion": 5, "Bits": 5, "Reflection": 5},
    checks=(
        Check("order", "the pixels come in the order of eq. (1)", 1, checks.order),
        Check("degrees", "hidden units have the degrees of eq. (3)", 2, checks.degrees),
        Check("mask", "layers are connected as eq. (4) says", 3, checks.mask),
        Check("masses", "logits become log-probabilities by eq. (5)", 4, checks.masses),
        Check("bits", "nats become bits a pixel by eq. (6)", 5, checks.bits),
        Check("pick", "one level is drawn by eq. (7)", 6, checks.pick),
        Check("log-prob", "an image has the log-probability of eq. (8)", 7, checks.log_prob),
        Check("complete", "pixels are drawn one after the other by eq. (9)", 8, checks.complete),
        Check("chain", "no pixel sees itself or a later one; P sums to one", 0, checks.chain),
        Check("learns", "the whole learns, and draws by its seed alone", 0, checks.learns),
    ),
    mutants=(
        Mutant(
            "transposed",
            "order",
            "return torch.arange(height * width)\n",
            "return torch.arange(height * width).reshape(height, width).T.reshape(-1)\n",
            only={"order": "raster"},
        ),
        Mutant(
            "rows-for-columns",
            "order",
            "return numbers.T.reshape(-1)",
            "return numbers.reshape(-1)",
            only={"order": "columns"},
        ),
        Mutant(
            "first-row-reversed",
            "order",
            "numbers[1::2] = numbers[1::2].flip(1)",
            "numbers[0::2] = numbers[0::2].flip(1)",
            only={"order": "serpentine"},
        ),
        Mutant(
            "degrees-from-one",
            "degrees",
            "torch.arange(units) % pixels",
            "torch.arange(units) % pixels + 1",
            only={"degrees": "cyclic"},
        ),
        Mutant(
            "degrees-divided-first",
            "degrees",
            "torch.arange(units) * pixels // units",
            "torch.arange(units) // (units // pixels + 1)",
            only={"degrees": "spread"},
        ),
        Mutant(
            "sees-what-it-predicts",
            "mask",
            "return after[:, None] > before[None, :]",
            "return after[:, None] >= before[None, :]",
        ),
        Mutant(
            "hidden-too-strict",
            "mask",
            "    return after[:, None] >= before[None, :]",
            "    return after[:, None] > before[None, :]",
        ),
        Mutant("not-normalized", "masses", "logits.log_softmax(dim=-1)", "logits"),
        Mutant("softmax-over-pixels", "masses", "log_softmax(dim=-1)", "log_softmax(dim=1)"),
        Mutant("nats-called-bits", "bits", "/ (pixels * math.log(2))", "/ pixels"),
        Mutant("per-image", "bits", "/ (pixels * math.log(2))", "/ math.log(2)"),
        Mutant("sum-for-mean", "bits", "-log_p.mean()", "-log_p.sum()"),
        Mutant("likelihood-minimized", "bits", "-log_p.mean()", "log_p.mean()"),
        Mutant("temperature-multiplies", "pick", "logits / temperature", "logits * temperature"),
        Mutant(
            "argmax-for-sampling",
            "pick",
            "return (cdf <= uniform[:, None]).sum(dim=-1).clamp(max=logits.shape[-1] - 1)",
            "return logits.argmax(dim=-1)",
            only=_CDF,
        ),
        Mutant(
            "one-level-too-high",
            "pick",
            "(cdf <= uniform[:, None]).sum(dim=-1)",
            "((cdf <= uniform[:, None]).sum(dim=-1) + 1)",
            only=_CDF,
        ),
        Mutant(
            "beyond-the-last-level",
            "pick",
            ".clamp(max=logits.shape[-1] - 1)",
            " + (uniform > 0.9999)",
            only=_CDF,
        ),
        Mutant(
            "argmax-without-noise",
            "pick",
            "(logits / temperature + gumbel)",
            "(logits / temperature)",
            only=_GUMBEL,
        ),
        Mutant(
            "gumbel-upside-down",
            "pick",
            "gumbel = -torch.log(-torch.log(uniform))",
            "gumbel = torch.log(-torch.log(uniform))",
            only=_GUMBEL,
        ),
        Mutant("mean-for-sum", "log-prob", ".sum(dim=1)\n", ".mean(dim=1)\n"),
        Mutant(
            "shifted-by-one",
            "log-prob",
            "log_masses(self.logits(levels, cond), levels)",
            "log_masses(self.logits(levels.roll(1, dims=1), cond), levels)",
        ),
        Mutant("order-forgotten", "complete", "pixel = self.order[k]", "pixel = k"),
        Mutant("asked-once", "complete", _EACH, _ONCE),
        Mutant(
            "one-pixel-late",
            "complete",
            "range(known, self.pixels)",
            "range(known + 1, self.pixels)",
        ),
        Mutant("same-noise", "complete", "uniform[:, k]", "uniform[:, 0]"),
        Mutant(
            "temperature-forgotten",
            "complete",
            "uniform[:, k], temperature)",
            "uniform[:, k], 1.0)",
        ),
        Mutant("last-layer-not-strict", "chain", "strict=True", "strict=False"),
    ),
    figures=draw_figures,
    drawn=(
        Figure("curves", "bits a pixel over the steps"),
        Figure("samples", "held-out digits, and samples at two temperatures"),
        Figure("completions", "digits completed from their first half"),
        Figure("bits", "bits of each pixel, without and with those before it"),
    ),
)
