"""Principal components of the pixels: linear, so blind to all but mean and covariance."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from genzoo.data.ranges import to_display
from genzoo.evaluation.extractors import fitted
from genzoo.evaluation.extractors.fitted import Fitted
from genzoo.evaluation.features import Extractor, Features, Request, content_hash
from genzoo.evaluation.result import FeatureInfo

# Goes into the cache key: raise it whenever the fit changes.
VERSION = 2
WIDTH = 64
FIT_ITEMS = 2000


class PrincipalComponents(Extractor):
    """The leading principal components of the pixels, in one unit of mean square 1.

    In this space a Gaussian with the data's mean and covariance is all but perfect by the
    Fréchet distance: use it for comparison, not for judgement.
    """

    def __init__(
        self, weights: Mapping[str, Tensor], split: str, items: int, device: torch.device
    ) -> None:
        """Use fitted ``mean`` (D,) and ``axes`` (D, d)."""
        dim = weights["axes"].shape[1]
        super().__init__(FeatureInfo("pca", content_hash(weights), None, split, dim, items), device)
        self.mean, self.axes = weights["mean"].to(self.home), weights["axes"].to(self.home)

    def _extract(self, items: Tensor) -> Features:
        pixels = items.to(self.home).flatten(1).double() / 255 - self.mean
        return Features(pixels @ self.axes)

    @staticmethod
    def fit(images: Tensor) -> dict[str, Tensor]:
        """Mean and axes from at most `FIT_ITEMS` images, chosen by a fixed seed."""
        pixels = fitted.some(images, FIT_ITEMS).flatten(1).double() / 255
        mean = pixels.mean(0)
        _, spread, axes = torch.linalg.svd(pixels - mean, full_matrices=False)
        unit = spread[:WIDTH].square().mean().div(len(pixels)).sqrt().clamp(min=1e-6)
        return {"mean": mean, "axes": (axes[:WIDTH].T / unit).contiguous()}


def open_pca(request: Request) -> PrincipalComponents:
    """From the cache, or fitted now."""
    split, name = fitted.fit_split(request.dataset)
    path = fitted.cache_path(request.dataset, request.folder, f"pca-v{VERSION}")
    found = fitted.load(path, request.progress)
    if found is None:
        images = to_display(split.data, request.dataset.spec)
        found = Fitted(PrincipalComponents.fit(images), None)
        fitted.save(path, found, request.progress)
    items = min(len(split.data), FIT_ITEMS)
    return PrincipalComponents(found.weights, name, items, request.device)
