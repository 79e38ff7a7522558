"""Stacked digits: each channel is a digit and is seen by the classifier of single digits."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from genzoo.data import open_dataset
from genzoo.errors import InputError
from genzoo.evaluation.extractors.classifier import ClassifierFeatures, open_classifier
from genzoo.evaluation.features import Extractor, Features, Request


class StackedFeatures(Extractor):
    """A one-channel extractor applied to each channel, features side by side.

    The joint class of C channels is the tuple of their classes: K^C logits, row-major.
    """

    def __init__(self, single: ClassifierFeatures, channels: int) -> None:
        """Wrap the extractor of single digits."""
        info = replace(single.info, dim=channels * single.info.dim)
        super().__init__(info, single.device)
        self.single = single

    def _extract(self, items: Tensor) -> Features:
        n, channels = items.shape[:2]
        found = self.single(items.reshape(n * channels, 1, *items.shape[2:]))
        assert found.logits is not None
        scores = found.logits.log_softmax(1).reshape(n, channels, -1)
        joint = scores[:, 0]
        for c in range(1, channels):
            joint = (joint[:, :, None] + scores[:, c, None, :]).flatten(1)
        return Features(found.features.reshape(n, -1), joint, scores.argmax(2))


def open_stacked(request: Request) -> StackedFeatures:
    """With the classifier of the digits that were stacked.

    Raises:
        InputError: the channels of the data are not digits.
    """
    dataset = request.dataset
    if not dataset.stacked:
        raise InputError(
            f"features 'stacked' are for data whose channels are digits, not for {dataset.name}"
        )
    single = open_dataset(dataset.single or "digits", dataset.root)
    opened = open_classifier(replace(request, dataset=single, name="classifier"))
    return StackedFeatures(opened, dataset.spec.shape[0])
