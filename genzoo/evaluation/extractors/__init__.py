"""The feature spaces by name, one a file. Importing this module imports no torch.

A new space is a function of a `genzoo.evaluation.features.Request` in one file and an entry
here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from genzoo.errors import unknown

if TYPE_CHECKING:
    from genzoo.data.dataset import Dataset


@dataclass(frozen=True)
class ExtractorEntry:
    """A feature space that can be asked for by name.

    Attributes:
        name: as given to ``--features``.
        target: ``module:function`` in this package.
        summary: one line for people.
        pretrained: whether it is a network whose weights are a file to be fetched or given.
        variants: full names of what `name` may mean, the default first; empty where there
            is but one.
    """

    name: str
    target: str
    summary: str
    pretrained: bool = False
    variants: tuple[str, ...] = ()


_ALL = (
    ExtractorEntry(
        "coordinates", "coordinates:open_coordinates", "points, standardized: the default there"
    ),
    ExtractorEntry(
        "classifier",
        "classifier:open_classifier",
        "a small classifier of the data's labels: the default where there are some",
    ),
    ExtractorEntry(
        "stacked",
        "stacked:open_stacked",
        "the classifier of single digits, channel by channel: the default for stacked digits",
    ),
    ExtractorEntry(
        "self-supervised",
        "self_supervised:open_self_supervised",
        "patches that return, weighed by what survives small distortions: the default "
        "for images without labels",
    ),
    ExtractorEntry("pixels", "pixels:open_pixels", "the pixels, averaged down to 1,024 at most"),
    ExtractorEntry("pca", "pca:open_pca", "64 principal components of the pixels"),
    ExtractorEntry(
        "inception",
        "inception:open_inception",
        "Inception v3 as in most papers (torch-fidelity), 2,048 features",
        pretrained=True,
        variants=("inception-v3-compat",),
    ),
    ExtractorEntry(
        "dinov2",
        "dinov2:open_dinov2",
        "DINOv2, ViT-L/14 unless named in full: closest to human judgement (Stein et al. 2023)",
        pretrained=True,
        variants=("dinov2-vit-l-14", "dinov2-vit-s-14", "dinov2-vit-b-14", "dinov2-vit-g-14"),
    ),
    ExtractorEntry(
        "clip",
        "clip:open_clip",
        "CLIP's image encoder (torch-fidelity), ViT-B/32 unless named in full",
        pretrained=True,
        variants=(
            "clip-vit-b-32",
            "clip-vit-b-16",
            "clip-vit-l-14",
            "clip-vit-l-14-336px",
            "clip-rn50",
            "clip-rn101",
        ),
    ),
)
EXTRACTORS: Mapping[str, ExtractorEntry] = {entry.name: entry for entry in _ALL}
OWN = ExtractorEntry("own", "own:open_own", "a class of your own, module:Class or FILE.py:Class")


def default(dataset: Dataset) -> str:
    """What ``auto`` means for a dataset."""
    if not dataset.spec.is_image:
        return "coordinates"
    if dataset.stacked:
        return "stacked"
    return "classifier" if dataset.spec.num_classes else "self-supervised"


def find(name: str) -> tuple[ExtractorEntry, str]:
    """An entry, and the variant that is meant.

    Raises:
        InputError: no such space, with the nearest name.
    """
    wanted = name.lower()
    if wanted in EXTRACTORS:
        entry = EXTRACTORS[wanted]
        return entry, entry.variants[0] if entry.variants else wanted
    for entry in _ALL:
        if wanted in entry.variants:
            return entry, wanted
    raise unknown("features", name, [*EXTRACTORS, "auto", "module:Class", "FILE.py:Class"])


def load(entry: ExtractorEntry) -> Callable[..., Any]:
    """The function that opens a space."""
    module, _, function = entry.target.partition(":")
    loaded = importlib.import_module(f"{__name__}.{module}")
    opened: Callable[..., Any] = getattr(loaded, function)
    return opened
