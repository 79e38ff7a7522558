"""From a name, a file or a class to a model, and from a run folder back to its model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from genzoo.errors import InputError
from genzoo.model import GenerativeModel
from genzoo.registry import (
    file_hash,
    is_file_model,
    load_class,
    parse_settings,
    preset_settings,
    resolve,
)
from genzoo.runs import Run, open_run
from genzoo.training.checkpoint import read_tensors
from genzoo.training.device import isolated_rng, memory_errors, resolve_device
from genzoo.types import DataSpec

# Code that the user of this process has named, and so may run again without being asked.
_named_files: set[str] = set()
_named_classes: dict[str, type[GenerativeModel]] = {}
_CLASS = "class:"


@dataclass(frozen=True)
class ModelSource:
    """Where models of a run come from.

    Attributes:
        name: as recorded; a file with its absolute path, ``class:module.Name`` for a class.
        short: for the names of folders.
        family: what it is shown as.
        control: a baseline rather than a contender.
        sha256: of the file, where it comes from one.
        cls: the class.
    """

    name: str
    short: str
    family: str
    control: bool
    sha256: str | None
    cls: type[GenerativeModel]

    def settings(
        self, given: Mapping[str, Any], spec: DataSpec, preset: str = "auto"
    ) -> dict[str, Any]:
        """All settings: those `given`, else the preset's, else the defaults.

        Raises:
            InputError: an unknown key or preset, or a wrong value.
        """
        chosen = {**preset_settings(self.cls, spec, preset), **given}
        settings = dataclasses.asdict(parse_settings(self.cls.Settings, chosen, self.name))
        try:
            text = json.dumps(settings, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise InputError(f"settings of {self.name} cannot be written: {error}") from error
        resolved: dict[str, Any] = json.loads(text)
        return resolved

    def build(self, spec: DataSpec, settings: Mapping[str, Any]) -> GenerativeModel:
        """A fresh model; its initial weights come from torch's global generator."""
        parsed = parse_settings(self.cls.Settings, settings, self.name)
        try:
            return self.cls(spec, parsed)
        except TypeError as error:
            if not (is_file_model(self.name) or self.name.startswith(_CLASS)):
                raise
            raise InputError(
                f"model '{self.name}' must be built as Class(spec, settings): {error}"
            ) from error


def find_model(model: str | type[GenerativeModel]) -> ModelSource:
    """The source of a registered name, ``FILE.py:Class`` (which is executed) or a class.

    Raises:
        InputError: no such model, or none at all.
    """
    if not isinstance(model, str):
        return _from_class(model)
    entry = resolve(model)
    name, digest = model, file_hash(model)
    if digest is not None:
        _named_files.add(digest)
        file, _, attribute = model.rpartition(":")
        name = f"{Path(file).resolve()}:{attribute}"
    return ModelSource(name, entry.name, entry.family, entry.control, digest, load_class(model))


def load_model(
    run: str | Path | Run,
    *,
    device: str | torch.device = "cpu",
    model: str | type[GenerativeModel] | None = None,
    trust: bool = False,
) -> GenerativeModel:
    """The trained model of a run, in evaluation mode, with averaged weights.

    Args:
        run: a run folder.
        device: where to put the model.
        model: the class of a run that was trained with one's own class, as it was given to
            training: ``FILE.py:Class`` or the class itself.
        trust: execute the file that the run names instead, if it is unchanged.

    Raises:
        InputError: the run is damaged or unfinished, or its model is one's own and neither
            `model` nor `trust` allows to execute it.
    """
    run = open_run(run)
    weights = run.weights()
    place = resolve_device(device)
    source = _source_of(run, model, trust)
    spec = run.spec if run.config["conditional"] else run.spec.unconditional()
    with isolated_rng(place), memory_errors("loading"):
        built = source.build(spec, run.config["settings"])
        tensors = read_tensors(weights, run.status["model_sha256"])
        try:
            built.load_state_dict(tensors)
        except RuntimeError as error:
            detail = " ".join(str(error).split())
            raise InputError(
                f"the weights of run '{run.path}' do not fit model '{source.name}': {detail:.200}"
            ) from error
        return built.to(place).eval()


def start_from(model: GenerativeModel, run: Run) -> None:
    """Give a fresh model the averaged weights of a trained run with the same parts.

    Raises:
        InputError: the run has no weights, or they do not fit.
    """
    tensors = read_tensors(run.weights(), run.status["model_sha256"])
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        detail = " ".join(str(error).split())
        raise InputError(
            f"--init {run.path}: its weights do not fit this model; give both the same "
            f"--set width=… and the like ({detail:.200})"
        ) from error


def _from_class(cls: type[GenerativeModel]) -> ModelSource:
    if not (isinstance(cls, type) and issubclass(cls, GenerativeModel)):
        raise InputError(f"model {cls!r} is neither a name nor a subclass of GenerativeModel")
    name = f"{_CLASS}{cls.__module__}.{cls.__qualname__}"
    _named_classes[name] = cls
    return ModelSource(name, cls.__name__.lower(), "own", False, None, cls)


def _source_of(run: Run, model: str | type[GenerativeModel] | None, trust: bool) -> ModelSource:
    """The model of a run; foreign code only if the user named or trusts it."""
    name, digest = run.model, run.config["model_sha256"]
    if model is not None:
        return find_model(model)
    if name.startswith(_CLASS):
        if name not in _named_classes:
            raise InputError(
                f"run '{run.path}' was trained with {name[len(_CLASS) :]}, a class of your own; "
                "pass it again as model="
            )
        return _from_class(_named_classes[name])
    if not is_file_model(name):
        return find_model(name)
    if not (trust or digest in _named_files):
        raise InputError(
            f"run '{run.path}' was trained with '{name}' (SHA-256 {str(digest)[:16]}…), and "
            "loading it executes that file; name it again with --model, or allow it with --trust"
        )
    if (found := file_hash(name) if Path(name.rpartition(":")[0]).is_file() else None) != digest:
        what = "is gone" if found is None else f"has changed (SHA-256 is now {found[:16]}…)"
        raise InputError(
            f"'{name}', with which run '{run.path}' was trained, {what}; "
            "name the file to execute with --model FILE.py:Class"
        )
    return find_model(name)
