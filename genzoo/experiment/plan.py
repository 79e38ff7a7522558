"""The plan of a comparison: checked before anything is trained, and kept in its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genzoo.errors import InputError
from genzoo.model import GenerativeModel
from genzoo.runs import SCHEMA, is_run, read_json, write_json
from genzoo.training import find_model
from genzoo.training.loading import ModelSource

PLAN = "compare.json"
# What must be the same for a comparison to go on.
_AGREE = ("models", "controls", "data", "budget", "seeds", "settings", "conditional", "samples")

Model = str | type[GenerativeModel]


def distinct(models: Sequence[Model] | str) -> list[Model]:
    """Each once, in order; a text is split at commas, and ``none`` is none."""
    given = models.split(",") if isinstance(models, str) else list(models)
    named = [m.strip() if isinstance(m, str) else m for m in given]
    return list(dict.fromkeys(m for m in named if m not in ("", "none")))


def find_sources(models: Sequence[Model], apart: str | None) -> dict[Model, ModelSource]:
    """Every model's class, found before anything is trained.

    Args:
        models: as they were asked for.
        apart: what makes runs happen in other processes, which find classes by name alone.
    """
    if not models:
        raise InputError("no model to compare; name some, for example --models vae,diffusion")
    sources = {model: find_model(model) for model in models}
    shorts: dict[str, Model] = {}
    for model, source in sources.items():
        if source.short in shorts:
            raise InputError(
                f"models '{shorts[source.short]}' and '{model}' would both be called "
                f"'{source.short}'; rename one"
            )
        shorts[source.short] = model
        if apart and not isinstance(model, str):
            raise InputError(f"{apart} needs models by name or FILE.py:Class, not {model!r}")
    return sources


def settings_by_model(
    settings: Mapping[str, Any], sources: Mapping[Model, ModelSource]
) -> dict[Model, dict[str, Any]]:
    """``{"vae.width": 128}`` as ``{"vae": {"width": 128}}``."""
    names: dict[str, Model] = {source.short: model for model, source in sources.items()}
    names |= {model: model for model in sources if isinstance(model, str)}
    found: dict[Model, dict[str, Any]] = {model: {} for model in sources}
    for key, value in settings.items():
        model, _, setting = key.rpartition(".")
        if model not in names:
            raise InputError(
                f"--set {key}={value}: begin with the model that it is for, as in "
                f"--set {next(iter(names))}.{setting}={value} (models: {', '.join(names)})"
            )
        found[names[model]][setting] = value
    return found


def open_plan(path: Path, plan: Mapping[str, Any]) -> None:
    """Write the plan into a new folder, or check that it is the one that is there.

    Raises:
        InputError: something else is there; names what differs.
    """
    file = path / PLAN
    if not file.exists():
        if is_run(path) or (path / "runs").exists():
            raise InputError(f"'{path}' holds something else; choose another --out")
        write_json(file, plan)
        return
    there = read_json(file, SCHEMA)
    for key in _AGREE:
        if there.get(key) != plan[key]:
            raise InputError(
                f"'{path}' holds another comparison: its {key} are {_short(there.get(key))}, not "
                f"{_short(plan[key])}; repeat its call to go on with it, or choose another --out"
            )


def _short(value: Any) -> str:
    return f"{', '.join(map(str, value)) if isinstance(value, list) else value!s:.200}"
