"""What the stages after a training cost, from a few samples and items."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from genzoo.data import Dataset
from genzoo.data.ranges import to_display
from genzoo.evaluation import evaluate, prepare
from genzoo.evaluation.likelihood import REPEAT_EVERY, held_out_items
from genzoo.model import GenerativeModel
from genzoo.ops import BATCH, likelihood_of, log_likelihood
from genzoo.progress import Progress
from genzoo.samples import SampleSet
from genzoo.sampling import SPEED_CALLS, SPEED_SECONDS
from genzoo.training.device import isolated_rng, memory_errors, synchronize

BATCH_SIZE = 256  # of sampling at the end of a run
FEW, MANY = 1, 16  # that are measured to see what one costs


def sampling_seconds(model: GenerativeModel, n: int, devices: int = 1) -> float:
    """Of drawing n samples in batches, shared by devices, and of measuring the speed before it."""

    def draw(number: int) -> None:
        model.sample(number, seed=0)

    with memory_errors("sampling"):
        first = _seconds(lambda: draw(FEW), model.device)
        batch = _line(draw, model.device)
    starts = range(0, n, devices * BATCH_SIZE)  # of the first device's batches
    drawing = sum(batch(min(BATCH_SIZE, n - start)) for start in starts)
    return first + drawing + sum(_speed_test(batch(number)) for number in (1, 64))


def likelihood_seconds(model: GenerativeModel, dataset: Dataset, devices: int = 1) -> float:
    """Of the likelihood of held-out items, shared by devices; 0 where a model has none."""
    able = likelihood_of(model)
    if able is None or not len(dataset.test.data):
        return 0.0
    items = held_out_items(able, dataset.test.data)
    again = 0 if able.likelihood == "exact" else len(items) // REPEAT_EVERY
    own = sum(_first_share(number, BATCH, devices) for number in (len(items), again))

    def measure(number: int) -> None:
        log_likelihood(model, items[:number])

    with memory_errors("likelihood"):
        _seconds(lambda: measure(FEW), model.device)  # warms up
        return _line(measure, model.device)(own)


def metrics_seconds(dataset: Dataset, n: int, device: torch.device, progress: Progress) -> float:
    """Of all metrics of n samples, by evaluating held-out items in their place.

    The feature extractor and the yardsticks of the data, which a comparison makes once and keeps
    in the cache, are made before.
    """
    prepare(dataset, n, device=str(device), progress=progress)
    test = dataset.test
    rows = torch.arange(n) % len(test.data)
    labels = None if test.labels is None else test.labels[rows].numpy()
    if dataset.spec.is_image:
        images = to_display(test.data[rows], dataset.spec).permute(0, 2, 3, 1)
        samples = SampleSet(images=images.contiguous().numpy(), labels=labels)
    else:
        samples = SampleSet(points=test.data[rows].float().numpy(), labels=labels)
    begun = time.perf_counter()
    with isolated_rng(device):
        evaluate(samples, dataset, device=str(device), progress=progress)
    return time.perf_counter() - begun


def _first_share(n: int, batch: int, devices: int) -> int:
    """Of n items, in batches by turns, those of the first device."""
    return sum(min(batch, n - start) for start in range(0, n, devices * batch))


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    begun = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - begun


def _line(work: Callable[[int], None], device: torch.device) -> Callable[[int], float]:
    """Seconds of any number, on the line through a few and many."""
    few, many = (_seconds(lambda n=n: work(n), device) for n in (FEW, MANY))  # type: ignore[misc]
    each = max(0.0, many - few) / (MANY - FEW)
    start = max(0.0, few - FEW * each)
    return lambda number: start + number * each


def _speed_test(seconds: float) -> float:
    """Of the calls that measure how fast a batch is drawn, see `genzoo.sampling`."""
    return max(seconds, min(SPEED_SECONDS, SPEED_CALLS * seconds))
