"""CLIP's image encoders: trained on captions, so they see what people would name."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from genzoo import compat
from genzoo.evaluation.extractors.pretrained import Weights, fits, locate, to_rgb
from genzoo.evaluation.features import Extractor, Features, Request
from genzoo.evaluation.result import FeatureInfo

_MEGABYTES = {
    "clip-vit-b-32": 338,
    "clip-vit-b-16": 335,
    "clip-vit-l-14": 890,
    "clip-vit-l-14-336px": 891,
    "clip-rn50": 244,
    "clip-rn101": 278,
}


class Clip(Extractor):
    """The image embedding, unscaled."""

    chunk = 32

    def __init__(self, network: nn.Module, info: FeatureInfo, device: torch.device) -> None:
        """Take torch-fidelity's network of uint8 (N, 3, H, W)."""
        super().__init__(info, device)
        self.network = network.eval().to(device)

    def _extract(self, items: Tensor) -> Features:
        (features,) = self.network(to_rgb(items).to(self.device))
        return Features(features)


def published(name: str) -> Weights:
    """OpenAI's file of a variant; its SHA-256 is part of the address."""
    compat.install()
    from torch_fidelity.feature_extractor_clip import MODEL_METADATA, MODEL_URLS

    digest = MODEL_METADATA[name]["hash"]
    return Weights(f"{name}-{digest}.pt", MODEL_URLS[name], digest, _MEGABYTES[name])


def open_clip(request: Request) -> Clip:
    """With the published weights; raises like `genzoo.evaluation.extractors.pretrained.locate`."""
    found = locate(published(request.name), request)
    with fits(found.path, request.name):
        network = build(request.name, found.path)
    dim = int(network.model.visual.output_dim)  # type: ignore[union-attr, arg-type]
    info = FeatureInfo(request.name, found.sha256, None, "none", dim, 0, found.source)
    return Clip(network, info, request.device)


def build(name: str, path: Path) -> nn.Module:
    """torch-fidelity's network with the weights in a TorchScript archive.

    Such an archive is read by TorchScript's own reader, which knows tensors and plain data;
    the code in it is not run.
    """
    compat.install()
    from torch_fidelity.feature_extractor_clip import FeatureExtractorCLIP

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network: nn.Module = FeatureExtractorCLIP(name, ["clip"], str(path))
    return network
