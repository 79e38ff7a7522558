"""The run folder: what training, sampling, evaluation and reports hand to each other.

Every file but the growing `history.jsonl` and `log.txt` is written beside and renamed, so
that a reader never sees half of one. Nothing in a run folder is ever executed. Importing
this module imports no torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genzoo.errors import InputError
from genzoo.files import (
    LOCK,
    atomic_path,
    disk_error,
    disk_errors,
    file_sha256,
    lock,
    read_json,
    write_bytes,
    write_json,
)
from genzoo.notebook import frame as frame_of
from genzoo.types import Budget, DataSpec

if TYPE_CHECKING:
    from genzoo.samples import SampleSet

SCHEMA = 1
CONFIG = "config.json"
STATUS = "status.json"
WEIGHTS = "model.safetensors"
CHECKPOINT = "checkpoint"
PREVIOUS_CHECKPOINT = "checkpoint-previous"
HISTORY = "history.jsonl"
SAMPLES = "samples.npz"
SAMPLES_PICTURE = "samples.png"
SAMPLES_INFO = "samples.json"
SCORES = "scores.json"
SNAPSHOTS = "snapshots"
PICTURES = "pictures"
SWEEPS = "sweeps.json"
LOG = "log.txt"

__all__ = [
    "Mirror",
    "Run",
    "atomic_path",
    "create_run",
    "disk_error",
    "disk_errors",
    "file_sha256",
    "is_run",
    "is_unused",
    "lock",
    "open_run",
    "read_json",
    "remove_leftovers",
    "write_bytes",
    "write_json",
]
STATES = ("training", "trained", "sampled", "finished", "interrupted", "failed")
_NUMBER = (int, float)
_NONE = type(None)
_CONFIG_FIELDS: Mapping[str, tuple[type, ...]] = {
    "genzoo": (str,),
    "model": (str,),
    "family": (str,),
    "control": (bool,),
    "model_sha256": (str, _NONE),
    "settings": (dict,),
    "data": (dict,),
    "budget": (str,),
    "seed": (int,),
    "conditional": (bool,),
    "device": (str,),
    "threads": (int,),
    "samples": (int,),
}
_STATUS_FIELDS: Mapping[str, tuple[type, ...]] = {
    "state": (str,),
    "reason": (str, _NONE),
    "step": (int,),
    "images": (int,),
    "progress": _NUMBER,
    "seconds": _NUMBER,
    "flops": (*_NUMBER, _NONE),
    "parameters": (int,),
    "images_per_second": _NUMBER,
    "evaluation_seconds": (*_NUMBER, _NONE),
    "model_sha256": (str, _NONE),
}
_DATA_FIELDS: Mapping[str, tuple[type, ...]] = {
    "name": (str,),
    "root": (str, _NONE),
    "size": (int, _NONE),
    "fingerprint": (str,),
    "spec": (dict,),
    "class_names": (list,),
}


@dataclass
class Run:
    """An opened run folder.

    Attributes:
        path: of the folder.
        config: what was asked for, `config.json`.
        status: how far it is, `status.json`.
    """

    path: Path
    config: dict[str, Any]
    status: dict[str, Any]

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def model(self) -> str:
        """The model's name as it was asked for."""
        return str(self.config["model"])

    @property
    def finished(self) -> bool:
        """Whether every stage that was asked for is done."""
        return bool(self.status["state"] == "finished")

    @property
    def trained(self) -> bool:
        """Whether the weights are there."""
        return self.status["model_sha256"] is not None

    @property
    def spec(self) -> DataSpec:
        """Of the data, with its conditions even if the model was not shown them."""
        return DataSpec.from_dict(self.config["data"]["spec"])

    def weights(self) -> Path:
        """The verified weights.

        Raises:
            InputError: training has not finished, or the file is missing or was changed.
        """
        expected = self.status["model_sha256"]
        if expected is None:
            raise InputError(
                f"run '{self.path}' is not trained to the end ({self.status['state']} at "
                f"{self.status['progress']:.0%}); finish it with --resume"
            )
        path = self.path / WEIGHTS
        if not path.is_file():
            raise InputError(f"run '{self.path}' is damaged: {WEIGHTS} is missing; train it again")
        if file_sha256(path) != expected:
            raise InputError(
                f"'{path}' is not what this run wrote (SHA-256 differs from {STATUS}); "
                "restore it or train again"
            )
        return path

    def history(self) -> list[dict[str, Any]]:
        """The logged steps in order; a last line that is being written is left out.

        Raises:
            InputError: a line in the middle is damaged.
        """
        path = self.path / HISTORY
        if not path.exists():
            return []
        with disk_errors(path):
            lines = path.read_bytes().split(b"\n")
        entries = []
        for number, line in enumerate(lines[:-1], start=1):
            try:
                entry = json.loads(line)
                if not isinstance(entry, dict) or not isinstance(entry["step"], int):
                    raise ValueError("not a logging step")
            except (ValueError, KeyError) as error:
                raise InputError(f"'{path}' line {number} is damaged: {error}") from error
            entries.append(entry)
        return entries

    def scores(self) -> dict[str, Any] | None:
        """What the evaluation wrote, or ``None``."""
        path = self.path / SCORES
        return read_json(path, SCHEMA) if path.exists() else None

    def samples(self) -> SampleSet | None:
        """The samples, or ``None``."""
        from genzoo.samples import read_samples

        path = self.path / SAMPLES
        return read_samples(path) if path.exists() else None

    def samples_info(self) -> dict[str, Any] | None:
        """How the samples were drawn and at what cost, or ``None``."""
        path = self.path / SAMPLES_INFO
        return read_json(path, SCHEMA) if path.exists() else None

    def frame(self) -> Any:
        """The history as a ``pandas.DataFrame``, a row a logged step.

        ``step``, ``images``, ``seconds``, … and a column ``loss/…`` or ``grad_norm/…`` each.

        Raises:
            InputError: pandas is not installed, or the history is damaged.
        """
        rows = []
        for entry in self.history():
            flat = {k: v for k, v in entry.items() if not isinstance(v, dict)}
            inner = {k: v for k, v in entry.items() if isinstance(v, dict)}
            rows.append(flat | {f"{k}/{n}": x for k, v in inner.items() for n, x in v.items()})
        return frame_of(rows)

    def _repr_html_(self) -> str:
        from genzoo_reports.notebook import run_html

        return run_html(self)

    def update_status(self, **changes: Any) -> None:
        """Change some fields of the status, in memory and on disk."""
        self.status = {**self.status, **changes}
        write_json(self.path / STATUS, self.status)

    def append_history(self, entry: Mapping[str, Any]) -> None:
        """Add a logging step."""
        path = self.path / HISTORY
        with disk_errors(path), open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(entry, allow_nan=False) + "\n")

    def cut_history(self, step: int) -> None:
        """Forget what was logged after `step`, because it will be done again."""
        kept = [entry for entry in self.history() if entry["step"] <= step]
        write_bytes(self.path / HISTORY, "".join(json.dumps(e) + "\n" for e in kept).encode())

    def append_log(self, line: str) -> None:
        """Add a line to `log.txt`."""
        path = self.path / LOG
        with disk_errors(path), open(path, "a", encoding="utf-8") as file:
            file.write(line.rstrip("\n") + "\n")


class Mirror(Run):
    """A run that another process writes: what is said of it here is remembered, not written."""

    def history(self) -> list[dict[str, Any]]:
        """Nothing; see the writer's."""
        return []

    def update_status(self, **changes: Any) -> None:
        """Change some fields of the status in memory."""
        self.status = {**self.status, **changes}

    def append_history(self, entry: Mapping[str, Any]) -> None:
        """Leave it to the writer."""

    def cut_history(self, step: int) -> None:
        """Leave it to the writer."""

    def append_log(self, line: str) -> None:
        """Leave it to the writer."""


def is_run(path: str | Path) -> bool:
    """Whether `path` is a folder with a run's configuration in it, readable or not."""
    return (Path(path) / CONFIG).is_file()


def is_unused(path: str | Path) -> bool:
    """Whether `path` is free for a new run: missing, or with nothing but a lock or log in it."""
    path = Path(path)
    if not path.exists():
        return True
    with disk_errors(path):
        names = {entry.name for entry in path.iterdir()}
    # A process killed while it began leaves a temporary configuration.
    return all(name in (LOCK, LOG) or name.startswith(f".{CONFIG}.") for name in names)


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files of a process that was killed while it wrote; own the lock."""
    for name in (CONFIG, STATUS, WEIGHTS, HISTORY, SAMPLES, SAMPLES_PICTURE, SAMPLES_INFO, SCORES):
        for leftover in path.glob(f".{name}.*"):
            with disk_errors(leftover):
                leftover.unlink(missing_ok=True)


def create_run(path: Path, config: Mapping[str, Any], parameters: int) -> Run:
    """Write a new run folder.

    Args:
        path: of the folder; made where missing.
        config: all fields of `config.json` but ``schema`` and ``kind``.
        parameters: number of scalars that are trained.
    """
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    status = {
        "schema": SCHEMA,
        "state": "training",
        "reason": None,
        "step": 0,
        "images": 0,
        "progress": 0.0,
        "seconds": 0.0,
        "flops": None,
        "parameters": parameters,
        "images_per_second": 0.0,
        "evaluation_seconds": None,
        "model_sha256": None,
    }
    whole = {"schema": SCHEMA, "kind": "run", **config}
    # As it will be read back: JSON knows no tuples.
    run = Run(path, json.loads(json.dumps(whole)), status)
    write_json(path / CONFIG, run.config)
    write_json(path / STATUS, run.status)
    return run


def open_run(path: str | Path | Run) -> Run:
    """Open and verify a run folder; nothing in it is executed.

    Raises:
        InputError: missing, half-written, of another schema version, or changed since.
    """
    if isinstance(path, Run):
        return path
    path = Path(path)
    if not path.is_dir():
        what = "is a file, not a run folder" if path.exists() else "there is no such folder"
        raise InputError(f"run '{path}': {what}")
    if not is_run(path):
        raise InputError(f"'{path}' is not a run folder: it has no {CONFIG}{_inner_runs(path)}")
    config = read_json(path / CONFIG, SCHEMA)
    if config.get("kind") != "run":
        raise InputError(f"'{path / CONFIG}' is of kind {config.get('kind')!r}, not a run")
    _check(config, _CONFIG_FIELDS, path / CONFIG)
    _check(config["data"], _DATA_FIELDS, path / CONFIG)
    try:
        Budget.parse(config["budget"])
        DataSpec.from_dict(config["data"]["spec"])
    except InputError as error:
        raise InputError(f"'{path / CONFIG}' is damaged: {error}") from error
    if not (path / STATUS).is_file():
        raise InputError(f"run '{path}' is half-written: it has no {STATUS}; delete it")
    status = read_json(path / STATUS, SCHEMA)
    _check(status, _STATUS_FIELDS, path / STATUS)
    if status["state"] not in STATES:
        raise InputError(f"'{path / STATUS}': unknown state {status['state']!r}")
    run = Run(path, config, status)
    if run.trained:
        run.weights()
    elif status["state"] in ("trained", "sampled", "finished"):
        raise InputError(f"'{path / STATUS}' says {status['state']} but has no model_sha256")
    return run


def _inner_runs(path: Path) -> str:
    inner = sorted(entry.parent for entry in path.glob(f"runs/*/{CONFIG}"))
    return f"; its runs are in it, for example '{inner[0]}'" if inner else ""


def _check(value: Mapping[str, Any], fields: Mapping[str, tuple[type, ...]], path: Path) -> None:
    """Every field is there and has one of its types."""
    for name, kinds in fields.items():
        if name not in value:
            raise InputError(f"'{path}' is damaged: '{name}' is missing")
        found = value[name]
        if not isinstance(found, kinds) or (isinstance(found, bool) and bool not in kinds):
            raise InputError(f"'{path}' is damaged: '{name}' is {found!r:.60}")
