"""Models by name: built in, from installed packages, or from a file.

Importing this module imports no torch, so that listing and help are instant.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from genzoo.errors import InputError, unknown

if TYPE_CHECKING:
    from genzoo.model import GenerativeModel
    from genzoo.types import DataSpec


@dataclass(frozen=True)
class ModelEntry:
    """A model that can be asked for by name.

    Attributes:
        name: as given to ``--model``.
        target: ``package.module:Class`` or ``path/to/file.py:Class``.
        family: what it is shown as.
        summary: one line for ``genzoo models``.
        control: a baseline with a known fault or merit rather than a contender.
    """

    name: str
    target: str
    family: str
    summary: str
    control: bool = False


_ALL = (
    ModelEntry(
        "gan",
        "genzoo.models.gan:GAN",
        "GAN",
        "relativistic GAN with gradient penalties on real and generated data (R3GAN)",
    ),
    ModelEntry(
        "dcgan",
        "genzoo.models.classic_gans:DCGAN",
        "GAN",
        "the original game, non-saturating: the critic is a classifier and may let modes go",
    ),
    ModelEntry(
        "wgan-gp",
        "genzoo.models.classic_gans:WGANGP",
        "GAN",
        "Wasserstein GAN with a gradient penalty",
    ),
    ModelEntry(
        "sngan",
        "genzoo.models.classic_gans:SNGAN",
        "GAN",
        "hinge loss and a spectrally normalized critic",
    ),
    ModelEntry(
        "vae",
        "genzoo.models.vae:VAE",
        "VAE",
        "variational autoencoder with a discretized-logistic likelihood",
    ),
    ModelEntry(
        "gaussian-vae",
        "genzoo.models.gaussian_vae:GaussianVAE",
        "VAE",
        "textbook VAE: one Gaussian latent; beta-VAE and IWAE by setting",
    ),
    ModelEntry(
        "vqvae",
        "genzoo.models.vqvae:VQVAE",
        "VAE",
        "discrete codes of patches (VQ-VAE), then an autoregressive prior over them",
    ),
    ModelEntry(
        "flow",
        "genzoo.models.flow:Flow",
        "normalizing flow",
        "transformer autoregressive flow on patches, samples denoised (TarFlow)",
    ),
    ModelEntry(
        "flow-density",
        "genzoo.models.flow:DensityFlow",
        "normalizing flow",
        "the same flow trained for bits/dim on dequantized images (TarFlow)",
    ),
    ModelEntry(
        "realnvp",
        "genzoo.models.coupling_flows:RealNVP",
        "normalizing flow",
        "affine couplings with alternating masks on several scales (RealNVP)",
    ),
    ModelEntry(
        "glow",
        "genzoo.models.coupling_flows:Glow",
        "normalizing flow",
        "normalization, invertible 1x1 convolutions and affine couplings (Glow)",
    ),
    ModelEntry(
        "spline-flow",
        "genzoo.models.coupling_flows:SplineFlow",
        "normalizing flow",
        "Glow's steps with rational-quadratic spline couplings (neural spline flow)",
    ),
    ModelEntry(
        "diffusion",
        "genzoo.models.diffusion:Diffusion",
        "diffusion",
        "EDM-preconditioned denoiser, sampled with Heun's method",
    ),
    ModelEntry(
        "flow-matching",
        "genzoo.models.flow_matching:FlowMatching",
        "flow matching",
        "velocity along straight paths from noise to data (rectified flow)",
    ),
    ModelEntry(
        "ddpm",
        "genzoo.models.ddpm:DDPM",
        "diffusion",
        "textbook diffusion in 1000 discrete steps, with a choice of schedule and prediction",
    ),
    ModelEntry(
        "consistency",
        "genzoo.models.consistency:Consistency",
        "few-step",
        "a diffusion model that is tuned to sample in one or two steps (ECT)",
    ),
    ModelEntry(
        "meanflow",
        "genzoo.models.mean_flow:MeanFlow",
        "few-step",
        "average velocity along straight paths: one step from noise to data",
    ),
    ModelEntry(
        "autoregressive",
        "genzoo.models.autoregressive:Autoregressive",
        "autoregressive",
        "causal transformer on patches, a masked network within each; exact likelihood",
    ),
    ModelEntry(
        "pixelcnn",
        "genzoo.models.pixelcnn:PixelCNN",
        "autoregressive",
        "gated causal convolutions, pixel by pixel; exact likelihood (PixelCNN)",
    ),
    ModelEntry(
        "noise",
        "genzoo.models.controls:Noise",
        "control",
        "uniform noise over the range of the data: nothing learned",
        control=True,
    ),
    ModelEntry(
        "gaussian",
        "genzoo.models.controls:Gaussian",
        "control",
        "one Gaussian with the mean and covariance of the data (per class)",
        control=True,
    ),
    ModelEntry(
        "gmm",
        "genzoo.models.controls:Mixture",
        "control",
        "Gaussian mixture fitted by expectation maximization (scikit-learn)",
        control=True,
    ),
    ModelEntry(
        "copycat",
        "genzoo.models.controls:Copycat",
        "control",
        "returns training items: perfect quality, nothing but memory",
        control=True,
    ),
)
# Sizes of a model, and the data that `auto` gives them to.
PRESETS: Mapping[str, str] = {
    "tiny": "points, and images of up to 16 pixels",
    "small": "images of up to 32 pixels, minutes on a CPU",
    "base": "larger images, hours on a GPU",
}
MODELS: Mapping[str, ModelEntry] = {entry.name: entry for entry in _ALL}
DEFAULT_MODELS = ("gan", "vae", "flow", "diffusion")
CONTROLS = tuple(entry.name for entry in _ALL if entry.control)


def installed_models() -> dict[str, ModelEntry]:
    """Built-in models and those that installed packages bring (entry points ``genzoo.models``)."""
    extra = {
        point.name: ModelEntry(point.name, point.value, "plug-in", f"from {point.value}")
        for point in entry_points(group="genzoo.models")
        if point.name not in MODELS
    }
    return {**MODELS, **extra}


def is_file_model(name: str) -> bool:
    """Whether `name` means a class in a file, ``FILE.py:Class``."""
    return ".py:" in name


def resolve(name: str) -> ModelEntry:
    """The entry of a name, an entry point or ``FILE.py:Class``.

    Raises:
        InputError: no such model, with the nearest name.
    """
    if is_file_model(name):
        path, _, cls = name.rpartition(":")
        if not Path(path).is_file():
            raise InputError(f"model '{name}': there is no file '{path}'")
        return ModelEntry(f"{Path(path).stem}-{cls}".lower(), name, "own", f"class {cls} of {path}")
    models = installed_models()
    if name not in models:
        raise unknown("model", name, models)
    return models[name]


def file_hash(name: str) -> str | None:
    """SHA-256 of the file behind ``FILE.py:Class``; ``None`` for other models."""
    if not is_file_model(name):
        return None
    return hashlib.sha256(Path(name.rpartition(":")[0]).read_bytes()).hexdigest()


def load_class(name: str) -> type[GenerativeModel]:
    """Import the class of a model. A file's code is executed: only what the user named.

    Raises:
        InputError: the class is missing or is no model, or its file fails to import.
    """
    entry = resolve(name)
    where, _, attribute = entry.target.rpartition(":")
    try:
        module = import_file(Path(where)) if is_file_model(name) else importlib.import_module(where)
    except Exception as error:
        if not is_file_model(name):
            raise
        raise InputError(f"model '{name}' cannot be imported: {error!r}") from error
    from genzoo.model import GenerativeModel

    cls = getattr(module, attribute, None)
    if cls is None:
        own = [k for k, v in vars(module).items() if isinstance(v, type)]
        raise unknown(f"class in {where}", attribute, own)
    if not (isinstance(cls, type) and issubclass(cls, GenerativeModel)):
        raise InputError(f"model '{name}': {attribute} is not a subclass of genzoo.GenerativeModel")
    return cls


def build(name: str, spec: DataSpec, settings: Mapping[str, Any] | None = None) -> GenerativeModel:
    """A fresh model; its initial weights come from torch's global generator.

    Args:
        name: see `resolve`.
        spec: of the data to model.
        settings: values or texts by field name, see `parse_settings`.
    """
    cls = load_class(name)
    parsed = parse_settings(cls.Settings, settings or {}, name)
    try:
        return cls(spec, parsed)
    except TypeError as error:
        if not is_file_model(name):
            raise
        raise InputError(
            f"model '{name}' must be built as Class(spec, settings): {error}"
        ) from error


def parse_settings(cls: type, settings: Mapping[str, Any], model: str) -> Any:
    """An instance of a settings dataclass from ``key=value`` texts or values.

    Raises:
        InputError: an unknown key (with the nearest one) or a value of the wrong type.
    """
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    parsed = {}
    for key, value in settings.items():
        if key not in names:
            raise unknown(f"setting of {model}", key, names)
        parsed[key] = _convert(value, hints[key], f"--set {key}={value}")
    try:
        return cls(**parsed)
    except ValueError as error:
        raise InputError(f"settings of {model}: {error}") from error


def preset_settings(
    cls: type[GenerativeModel], spec: DataSpec, preset: str = "auto"
) -> dict[str, Any]:
    """The settings that a preset changes, by name: what a model's class says of it.

    Args:
        cls: of the model; its settings' defaults are ``tiny``.
        spec: of the data, whose size ``auto`` goes by.
        preset: a name of `PRESETS`, or ``auto``.

    Raises:
        InputError: no such preset, with the nearest name.
    """
    if preset != "auto" and preset not in PRESETS:
        raise unknown("preset", preset, ("auto", *PRESETS))
    if preset == "auto":
        side = max(spec.shape[1:], default=0)
        preset = "tiny" if side <= 16 else "small" if side <= 32 else "base"
    return dict(cls.presets.get(preset, {}))


@dataclass(frozen=True)
class SettingInfo:
    """One setting of a model, for people.

    Attributes:
        name: as given to ``--set``.
        type: ``int``, ``float``, ``true or false``, or the values to choose from.
        default: its value where nothing is set.
        meaning: from the settings' docstring; empty where that says nothing.
    """

    name: str
    type: str
    default: Any
    meaning: str


def describe_settings(cls: type) -> list[SettingInfo]:
    """The fields of a settings dataclass, explained by its and its bases' docstrings."""
    hints = typing.get_type_hints(cls)
    meaning: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        _, _, section = inspect.cleandoc(vars(base).get("__doc__") or "").partition("Attributes:\n")
        said = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", section, re.MULTILINE)
        meaning |= {name: " ".join(text.split()).replace("`", "") for name, text in said}
    return [
        SettingInfo(f.name, _type_name(hints[f.name]), f.default, meaning.get(f.name, ""))
        for f in dataclasses.fields(cls)
    ]


def _type_name(kind: Any) -> str:
    options = typing.get_args(kind)
    if not options:
        return {bool: "true or false"}.get(kind, getattr(kind, "__name__", str(kind)))
    if typing.get_origin(kind) is typing.Literal:
        return ", ".join(map(str, options))
    return " or ".join("none" if o is type(None) else _type_name(o) for o in options)


def _convert(value: Any, kind: Any, shown: str) -> Any:
    """One setting as the type that its field declares."""
    options = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        if value not in options:
            raise unknown(f"value in {shown}:", str(value), map(str, options))
        return value
    if type(None) in options:
        if value is None or value == "none":
            return None
        kind = next(option for option in options if option is not type(None))
    text = str(value).strip().lower()
    try:
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False}[text]
        if kind in (int, float):
            number = float(text)
            if not abs(number) < float("inf") or (kind is int and number != int(number)):
                raise ValueError
            return kind(number)
    except (ValueError, KeyError, OverflowError):
        names = {bool: "true or false", int: "a whole number", float: "a finite number"}
        raise InputError(f"{shown} must be {names[kind]}") from None
    return value


def import_file(path: Path) -> ModuleType:
    """Execute a file of the user's as a module of its own.

    Args:
        path: of an existing ``.py`` file that the user named.
    """
    name = f"genzoo_file_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Code that the file pickles or inspects must find its module.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
