"""What extractors that are fitted to the data share: which items, and the cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from genzoo.data.dataset import Dataset, Split
from genzoo.errors import GenzooError, InputError
from genzoo.evaluation.cache import keep
from genzoo.evaluation.features import content_hash
from genzoo.files import atomic_path
from genzoo.progress import Progress


class Fitted(NamedTuple):
    """Weights, and accuracy on held-out data where that means something."""

    weights: dict[str, Tensor]
    accuracy: float | None


def fit_split(dataset: Dataset) -> tuple[Split, str]:
    """The items to fit on, and their name: reserved ones, training items, or held-out ones.

    Raises:
        InputError: the dataset holds nothing at all.
    """
    if dataset.reserved is not None and len(dataset.reserved.data):
        return dataset.reserved, "reserved"
    if len(dataset.train.data):
        return dataset.train, "train"
    if len(dataset.test.data):
        return dataset.test, "test"
    raise InputError(f"{dataset.name} has no items")


def some(items: Tensor, n: int) -> Tensor:
    """At most n of the items, chosen by a fixed seed."""
    chosen = np.random.default_rng(0).permutation(len(items))[:n]
    return items[torch.from_numpy(chosen)]


def cache_path(dataset: Dataset, folder: Path, version: str) -> Path:
    """Where an extractor of a dataset is kept."""
    return folder / "extractors" / f"{dataset.fingerprint[:32]}-{version}.safetensors"


def save(path: Path, fitted: Fitted, progress: Progress) -> None:
    """Keep it for the next time, with the hash of its content."""
    about = {"accuracy": fitted.accuracy, "sha256": content_hash(fitted.weights)}

    def write() -> None:
        with atomic_path(path) as beside:
            save_file(fitted.weights, beside, metadata={"genzoo": json.dumps(about)})

    keep(path, write, progress)


def load(path: Path, progress: Progress) -> Fitted | None:
    """Verified weights and accuracy, or ``None`` where there are none to be trusted."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["genzoo"])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if content_hash(weights) != about["sha256"]:
            raise ValueError("its content does not match its hash")
        return Fitted(weights, None if about["accuracy"] is None else float(about["accuracy"]))
    except (SafetensorError, GenzooError, OSError, ValueError, KeyError, TypeError) as error:
        progress.note(f"'{path}' cannot be used ({error}); the extractor is made again")
        return None
