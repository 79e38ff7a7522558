"""Inception v3 as converted from TensorFlow: the space of the FID in most papers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from genzoo import compat
from genzoo.evaluation.extractors.pretrained import Weights, fits, locate, read_tensors, to_rgb
from genzoo.evaluation.features import Extractor, Features, Request
from genzoo.evaluation.result import FeatureInfo

# The name carries the first digits of the hash.
WEIGHTS = Weights(
    "weights-inception-2015-12-05-6726825d.pth",
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    91,
)
DIM = 2048


class Inception(Extractor):
    """The 2,048 pooled activations, unscaled, and 1,008 logits without bias.

    Both are what torch-fidelity takes for FID, KID, precision and recall, and for the
    inception score, so that the numbers are those of its papers.
    """

    chunk = 32

    def __init__(self, network: nn.Module, info: FeatureInfo, device: torch.device) -> None:
        """Take a network that yields features and logits of uint8 (N, 3, H, W)."""
        super().__init__(info, device)
        self.network = network.eval().to(device)

    def _extract(self, items: Tensor) -> Features:
        features, logits = self.network(to_rgb(items).to(self.device))
        return Features(features, logits)


def open_inception(request: Request) -> Inception:
    """With the published weights; raises like `genzoo.evaluation.extractors.pretrained.locate`."""
    found = locate(WEIGHTS, request)
    state = read_tensors(found.path)
    with fits(found.path, request.name):
        network = build(state)
    info = FeatureInfo(request.name, found.sha256, None, "none", DIM, 0, found.source)
    return Inception(network, info, request.device)


def build(state: Mapping[str, Tensor]) -> nn.Module:
    """torch-fidelity's network with these weights."""
    compat.install()
    from torch_fidelity import feature_extractor_inceptionv3 as module

    with _handing_out(module, state):
        network: nn.Module = module.FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048", "logits_unbiased"]
        )
    return network


@contextmanager
def _handing_out(module: Any, state: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the constructor, which can only download or unpickle, take `state` instead."""
    before = module.load_state_dict_from_url
    module.load_state_dict_from_url = lambda *args, **kwargs: state
    try:
        yield
    finally:
        module.load_state_dict_from_url = before
