"""Every failure that a person can cause or mend, in one line that says what and how.

The command line turns these into one line on stderr and an exit code:
2 the call or its input is wrong, 3 some runs of several failed, 4 the machine failed or
training diverged, 130 interrupted but resumable.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GenzooError(Exception):
    """Base of all errors that are reported as one line without a traceback.

    Attributes:
        exit_code: of the command line.
        told: whether another process of the same training reports it, for all of them.
    """

    exit_code = 2
    told = False


class InputError(GenzooError, ValueError):
    """The user's call or input is wrong; the message names the value and the remedy."""


class InUse(InputError):
    """Another process that lives owns the folder."""


class UnsupportedCapability(InputError):
    """A model was asked for something that its family cannot do."""

    def __init__(self, model: str, capability: str, instead: str = "") -> None:
        """Name the model, what was asked of it, and optionally what to do instead."""
        super().__init__(f"{model} has no {capability}" + (f"; {instead}" if instead else ""))


class PartialFailure(GenzooError):
    """Some runs of several failed; the others are complete."""

    exit_code = 3


class MachineError(GenzooError, RuntimeError):
    """Disk, memory or device failed: not the user's mistake."""

    exit_code = 4


class Diverged(MachineError):
    """Training produced a loss or gradient that is not finite."""


class Interrupted(GenzooError):
    """Stopped on request; what was done so far is saved and can be resumed."""

    exit_code = 130


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """An error for a name that does not exist, with the nearest one that does.

    >>> str(unknown("model", "difusion", ["gan", "diffusion"]))
    "unknown model 'difusion'; did you mean 'diffusion'? (known: diffusion, gan)"
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean '{near[0]}'?" if near else ";"
    return InputError(f"unknown {kind} '{name}'{hint} (known: {', '.join(names)})")
