"""What an assignment is made of: choices, blanks, checks, mutants and figures.

An assignment is one folder in `genzoo.course.assignments` with a `KIT` and three templates
(``model.py.j2``, ``README.md.j2``, ``report.md.j2``), and one line in `ASSIGNMENTS`.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from genzoo.checks import IMAGES, POINTS, ContractViolation, check_model
from genzoo.errors import unknown
from genzoo.noise import derive_seed
from genzoo.types import DataSpec

ASSIGNMENTS = ("vae", "flow", "gan", "diffusion", "flow-matching", "autoregressive", "compare")
"""In the order in which a course would give them; also names of the folders."""
POINTS_SPEC = DataSpec((2,), None, location=(0.0, 0.0), scale=(1.0, 1.0))
CONTRACT = "the model keeps genzoo's contract: shapes, seeds, gradients, groups"
DIGITS_SPEC = DataSpec((1, 8, 8), 17, {"label": 10}, (0.1,) * 10)


class CheckFailed(AssertionError):
    """What is wrong in the student's work, and a hint that does not give the answer away."""

    def __init__(self, cause: str, hint: str = "") -> None:
        """Both in one line."""
        super().__init__(cause)
        self.cause, self.hint = cause, hint


def fail(cause: str, hint: str = "") -> NoReturn:
    """End a check."""
    raise CheckFailed(cause, hint)


def expect(condition: object, cause: str, hint: str = "") -> None:
    """Go on only if it holds."""
    if not condition:
        fail(cause, hint)


def same(
    found: object,
    expected: Tensor | np.ndarray | float,
    what: str,
    hint: str = "",
    *,
    tolerance: float = 1e-4,
) -> None:
    """The student's numbers are those that are right, up to rounding.

    Args:
        found: what the student's function returned.
        expected: the right numbers; their shape is asked for, too.
        what: names the numbers in the message, "log q(z | x)".
        hint: where to look.
        tolerance: relative to the size of the right numbers, and absolute.
    """
    right = torch.as_tensor(expected).double()
    expect(
        isinstance(found, (Tensor, float, int, np.ndarray, np.floating)),
        f"{what} must be a tensor, not {type(found).__name__}",
        hint,
    )
    got = torch.as_tensor(found).detach().double()
    expect(
        got.shape == right.shape,
        f"{what} has the shape {tuple(got.shape)}, but it should be {tuple(right.shape)}",
        hint,
    )
    expect(bool(torch.isfinite(got).all()), f"{what} is not finite everywhere", hint)
    size = float(right.abs().max()) if right.numel() else 0.0
    gap = float((got - right).abs().max()) if right.numel() else 0.0
    expect(
        gap <= tolerance * (1 + size),
        f"{what} is off by up to {gap:.3g} where the right values are of size {size:.3g}",
        hint,
    )


@dataclass(frozen=True)
class Submission:
    """A student's file, imported.

    Attributes:
        module: ``submission.model``.
        choices: of the variant, by name.
        seed: of everything random in the checks.
    """

    module: ModuleType
    choices: Mapping[str, Any]
    seed: int = 0

    def get(self, name: str) -> Any:
        """A function or class of the student's file."""
        found = getattr(self.module, name, None)
        if found is None:
            fail(f"submission/model.py has no '{name}'", "it was there at the start: put it back")
        return found

    @contextmanager
    def replaced(self, **functions: Any) -> Iterator[None]:
        """Stand-ins for functions of the student's file, while one of them is looked at."""
        before = {name: self.get(name) for name in functions}
        try:
            for name, function in functions.items():
                setattr(self.module, name, function)
            yield
        finally:
            for name, function in before.items():
                setattr(self.module, name, function)

    def generator(self, *words: int) -> torch.Generator:
        """Of random inputs; other words, other inputs."""
        return torch.Generator().manual_seed(derive_seed(self.seed, *words))

    def normal(self, *shape: int, word: int = 0) -> Tensor:
        """Standard normal inputs."""
        return torch.randn(*shape, generator=self.generator(word))

    def uniform(self, *shape: int, word: int = 0) -> Tensor:
        """Uniform inputs in [0, 1)."""
        return torch.rand(*shape, generator=self.generator(word))

    def model(self, spec: DataSpec, base: type | None = None) -> Any:
        """The student's model with weights of the seed, or a subclass of it."""
        torch.manual_seed(derive_seed(self.seed, 77))
        return (base or self.get("Model"))(spec)


CheckFunction = Callable[[Submission], None]


@dataclass(frozen=True)
class Check:
    """One thing that must hold.

    Attributes:
        name: in the report of `check`, and of the mutants that it must catch.
        title: what must hold, in words.
        blank: number of the blank that it is about; 0 for the whole, which is looked at only
            where everything before it holds.
        run: raises `CheckFailed`.
    """

    name: str
    title: str
    blank: int
    run: CheckFunction


@dataclass(frozen=True)
class Mutant:
    """A solution with one plausible mistake.

    Attributes:
        name: of the mistake.
        check: the check that must fail, and no other.
        old: text of the solution that is replaced; must occur exactly once.
        new: what stands in its place.
        only: choices without which it makes no sense.
    """

    name: str
    check: str
    old: str
    new: str
    only: Mapping[str, Any] = field(default_factory=dict)

    def fits(self, choices: Mapping[str, Any]) -> bool:
        """Whether the variant has what it breaks."""
        return all(choices.get(name) == value for name, value in self.only.items())


@dataclass(frozen=True)
class Figure:
    """A picture or number that the report asks for.

    Attributes:
        name: of the file ``figures/NAME.png``, and of the place in ``report.md``.
        alt: what it shows.
    """

    name: str
    alt: str


@dataclass(frozen=True)
class Hidden:
    """What the grader asks with random challenges; students see the title and the points.

    Attributes:
        name: of the test, in ``challenges.py``.
        title: what is asked for.
        points: for all of it.
        checks: what a mutant of these checks must lose points here for.
        whole: whether mutants of other checks may lose points here, too, as where the model is
            trained.
    """

    name: str
    title: str
    points: int
    checks: Sequence[str] = ()
    whole: bool = False


@dataclass(frozen=True)
class Kit:
    """An assignment.

    Attributes:
        title: of the assignment.
        data: of genzoo, or the name of the choice that holds it.
        choices: by name, what a variant chooses among; the first of each is variant 0's.
        steps: of training.
        minutes: that a whole student loop takes on two cores.
        hidden: what is graded with random challenges; these are the automatic points.
        questions: points of the written part, by question.
        checks: in teaching order.
        mutants: what the checks must catch.
        figures: draws all figures of the report in a `genzoo.course.studio.Studio`, and returns
            the numbers of the report's card.
        drawn: what it draws.
        excused: reasons by name for parts of genzoo's contract that the model cannot keep.
        harder: steps by name of other data for whoever wants more, many of them for a GPU.
        threads: of the training; for networks as small as these one is fastest on a busy machine.
    """

    title: str
    data: str
    choices: Mapping[str, Sequence[Any]]
    steps: int
    minutes: float
    hidden: Sequence[Hidden]
    questions: Mapping[str, int]
    checks: Sequence[Check]
    mutants: Sequence[Mutant]
    figures: Callable[..., dict[str, Any]]
    drawn: Sequence[Figure]
    excused: Mapping[str, str] = field(default_factory=dict)
    harder: Mapping[str, int] = field(default_factory=dict)
    threads: int = 1

    def all_checks(self) -> list[Check]:
        """Its own, then the contract that every model of genzoo keeps."""
        return [*self.checks, Check("contract", CONTRACT, 0, self._contract)]

    def _contract(self, submission: Submission) -> None:
        spec = IMAGES if self.data == "digits" else POINTS
        try:
            check_model(submission.get("Model"), specs=(spec,), left_out=self.excused)
        except ContractViolation as error:
            fail(str(error), "genzoo.check_model asks the same of every model")

    def variant(self, seed: int) -> dict[str, Any]:
        """The choices of a variant: 0 takes the first of each, others draw."""
        if seed == 0:
            return {name: options[0] for name, options in self.choices.items()}
        random = np.random.default_rng(derive_seed(seed, 4242))
        return {
            name: options[int(random.integers(len(options)))]
            for name, options in self.choices.items()
        }


def open_kit(name: str) -> Kit:
    """The kit of a registered assignment.

    Raises:
        InputError: there is none of this name.
    """
    if name not in ASSIGNMENTS:
        raise unknown("assignment", name, ASSIGNMENTS)
    module = importlib.import_module(f"genzoo.course.assignments.{name.replace('-', '_')}")
    kit: Kit = module.KIT
    return kit


def nats_of_normal(x: Tensor, mean: Tensor | float = 0.0, std: Tensor | float = 1.0) -> Tensor:
    """Log N(x; mean, std²) of each number, for the checks' own formulas."""
    std = torch.as_tensor(std, dtype=x.dtype)
    return -0.5 * ((x - mean) / std) ** 2 - std.log() - 0.5 * math.log(2 * math.pi)
