"""Points as they are, but for location and scale."""

from __future__ import annotations

import torch
from torch import Tensor

from genzoo.evaluation.extractors.fitted import fit_split
from genzoo.evaluation.features import Extractor, Features, Request, content_hash
from genzoo.evaluation.result import FeatureInfo


class Coordinates(Extractor):
    """Points standardized by mean and standard deviation of the training points."""

    def __init__(
        self, location: Tensor, scale: Tensor, split: str, items: int, device: torch.device
    ) -> None:
        """Use `location` and `scale` (D,) float64, of `items` points of `split`."""
        digest = content_hash({"location": location, "scale": scale})
        info = FeatureInfo("coordinates", digest, None, split, len(location), items)
        super().__init__(info, device)
        self.location, self.scale = location.to(self.home), scale.to(self.home)

    def _extract(self, items: Tensor) -> Features:
        return Features((items.to(self.home).double() - self.location) / self.scale)


def open_coordinates(request: Request) -> Coordinates:
    """Location and scale as the data's specification has them, else those of the points."""
    spec = request.dataset.spec
    split, name = fit_split(request.dataset)
    location = torch.tensor(spec.location, dtype=torch.float64)
    scale = torch.tensor(spec.scale, dtype=torch.float64)
    if not len(location) or not len(scale):
        points = split.data.double()
        location, scale = points.mean(0), points.std(0, correction=0)
        scale = torch.where(scale > 0, scale, 1.0)
    return Coordinates(location, scale, name, len(split.data), request.device)
