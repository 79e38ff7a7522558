"""Training: the loop, budgets, checkpoints, devices, and loading what was trained."""

from __future__ import annotations

from genzoo.training.device import available_devices, resolve_device
from genzoo.training.loading import ModelSource, find_model, load_model, start_from
from genzoo.training.loop import Trainer

__all__ = [
    "ModelSource",
    "Trainer",
    "available_devices",
    "find_model",
    "load_model",
    "resolve_device",
    "start_from",
]
