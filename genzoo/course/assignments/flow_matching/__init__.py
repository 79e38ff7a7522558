"""Flow matching on points: a velocity that carries noise to data, and how finely to follow it."""

from __future__ import annotations

from genzoo.course.assignments.flow_matching import checks
from genzoo.course.assignments.flow_matching.drawing import draw_figures
from genzoo.course.kit import Check, Figure, Hidden, Kit, Mutant

_STRAIGHT, _BENT = {"path": "straight"}, {"path": "trigonometric"}
_UNIFORM, _LOGIT = {"time": "uniform"}, {"time": "logit-normal"}

KIT = Kit(
    title="Flow matching",
    data="data",
    choices={
        "data": ["moons", "swiss-roll", "checkerboard", "ring"],
        "path": ["straight", "trigonometric"],
        "time": ["uniform", "logit-normal"],
        "noise": ["normal", "corners"],
    },
    steps=5000,
    minutes=2,
    harder={"checkerboard": 8000, "grid": 8000},
    hidden=(
        Hidden(
            "paths",
            "the paths, their velocities and their times",
            20,
            ("path", "target", "times", "errors"),
        ),
        Hidden(
            "steps",
            "Euler's and Heun's steps, one and all of them",
            20,
            ("euler", "heun", "integrate"),
        ),
        Hidden("density", "the change of log p on the way", 15, ("rates", "noise", "gaussian")),
        Hidden("samples", "samples of a fresh distribution look like it", 15, (), whole=True),
    ),
    questions={"Learning": 5, "Paths": 5, "Steps": 10, "Density": 5, "Reflection": 5},
    checks=(
        Check("path", "the path leads from noise to data as eq. (1) says", 1, checks.path),
        Check("target", "its velocity is the derivative, eq. (2)", 2, checks.target),
        Check("times", "times are those of eq. (3)", 3, checks.times),
        Check("euler", "Euler's step is eq. (5), of order 1", 4, checks.euler),
        Check("heun", "Heun's step is eq. (6), of order 2", 5, checks.heun),
        Check("integrate", "all steps follow one another by eq. (7)", 6, checks.integrate),
        Check("errors", "the error of each item is eq. (4)", 7, checks.errors),
        Check("rates", "log p changes on the way as eq. (8) says", 8, checks.rates),
        Check("noise", "the noise is that of this variant", 0, checks.noise),
        Check("gaussian", "a known velocity carries one normal law to another", 0, checks.gaussian),
        Check("learns", "the whole learns, and draws by its seed alone", 0, checks.learns),
    ),
    mutants=(
        Mutant(
            "reversed-time",
            "path",
            "return (1 - t) * x0 + t * x1",
            "return t * x0 + (1 - t) * x1",
            only=_STRAIGHT,
        ),
        Mutant(
            "reversed-time",
            "path",
            "return angle.cos() * x0 + angle.sin() * x1",
            "return angle.sin() * x0 + angle.cos() * x1",
            only=_BENT,
        ),
        Mutant("sign-of-the-target", "target", "x1 - x0\n", "x0 - x1\n", only=_STRAIGHT),
        Mutant(
            "sign-of-the-target",
            "target",
            "angle.cos() * x1 - angle.sin() * x0",
            "angle.cos() * x1 + angle.sin() * x0",
            only=_BENT,
        ),
        Mutant(
            "inner-derivative",
            "target",
            "return math.pi / 2 * (",
            "return 1.0 * (",
            only=_BENT,
        ),
        Mutant(
            "no-parts",
            "times",
            "(torch.arange(len(numbers), device=numbers.device) + numbers) / len(numbers)",
            "numbers",
            only=_UNIFORM,
        ),
        Mutant(
            "noise-for-data-times",
            "times",
            "torch.sigmoid(numbers)",
            "torch.sigmoid(-numbers)",
            only=_LOGIT,
        ),
        Mutant("time-of-the-end", "euler", "h * velocity(x, t)\n", "h * velocity(x, t + h)\n"),
        Mutant("backwards", "euler", "x + h * velocity(x, t)", "x - h * velocity(x, t)"),
        Mutant("not-averaged", "heun", "x + h / 2 * (first + second)", "x + h * (first + second)"),
        Mutant(
            "second-at-the-beginning",
            "heun",
            "velocity(x + h * first, t + h)",
            "velocity(x + h * first, t)",
        ),
        Mutant("one-step-too-few", "integrate", "range(steps)", "range(steps - 1)"),
        Mutant("one-step-too-many", "integrate", "range(steps)", "range(steps + 1)"),
        Mutant("time-stands-still", "integrate", "begin + i * h, h)", "begin, h)"),
        Mutant(
            "never-backwards",
            "integrate",
            "h = (end - begin) / steps\n",
            "h = abs(end - begin) / steps\n",
        ),
        Mutant(
            "mean-for-sum",
            "errors",
            "difference.square().sum(dim=1)",
            "difference.square().mean(dim=1)",
        ),
        Mutant("length-not-squared", "errors", "difference.square()", "difference.abs()"),
        Mutant(
            "asked-at-the-data",
            "errors",
            "self.velocity(path_point(x0, x1, t), t)",
            "self.velocity(x1, t)",
        ),
        Mutant("density-grows", "rates", "change = -(", "change = ("),
        Mutant(
            "mixed-derivatives",
            "rates",
            "(of_first[:, 0] + of_second[:, 1])",
            "(of_first.sum(1) + of_second.sum(1))",
        ),
        Mutant("half-the-divergence", "rates", " + of_second[:, 1])", ")"),
        Mutant(
            "clouds-too-wide",
            "noise",
            "+ 0.6 * normal",
            "+ 0.8 * normal",
            only={"noise": "corners"},
        ),
        Mutant("change-added", "gaussian", "- end[:, 2]", "+ end[:, 2]"),
    ),
    figures=draw_figures,
    excused={"density_integrates_to_one": "an integration a point; 'gaussian' asks it"},
    drawn=(
        Figure("curves", "losses over the steps, of early and late times"),
        Figure("film", "noise on its way to the data"),
        Figure("paths", "paths of the training and of the model"),
        Figure("quality", "distance to held-out points by the network's evaluations"),
        Figure("density", "log-densities of the data and of the model"),
    ),
)
