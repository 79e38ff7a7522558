"""What each metric is called, which way is better, and what it says. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Better = Literal["lower", "higher", "0.5", "none"]
Group = Literal["fidelity", "diversity", "memorization", "likelihood", "modes", "cost"]


@dataclass(frozen=True)
class MetricInfo:
    """One metric, for tables and pages.

    Attributes:
        name: key in ``scores.json``.
        title: short heading.
        better: which way is better; ``0.5`` means the nearer to one half.
        ideal: the value of a perfect model where it does not depend on the data.
        explanation: one line for a reader who sees the metric for the first time.
        reference: where it was defined.
        group: which question it answers.
    """

    name: str
    title: str
    better: Better
    ideal: float | None
    explanation: str
    reference: str
    group: Group


_ALL = (
    MetricInfo(
        "fd",
        "Fréchet distance",
        "lower",
        0.0,
        "distance between Gaussians fitted to the features of samples and of held-out data",
        "Heusel et al. 2017, arXiv:1706.08500",
        "fidelity",
    ),
    MetricInfo(
        "kid",
        "KID",
        "lower",
        0.0,
        "squared distance of the feature laws under a cubic kernel; unbiased, may be below 0",
        "Binkowski et al. 2018, arXiv:1801.01401",
        "fidelity",
    ),
    MetricInfo(
        "inception_score",
        "Inception score",
        "higher",
        None,
        "confident and varied class predictions; looks at no real data",
        "Salimans et al. 2016, arXiv:1606.03498",
        "fidelity",
    ),
    MetricInfo(
        "precision",
        "precision",
        "higher",
        None,
        "share of samples that lie where held-out data lie",
        "Kynkäänniemi et al. 2019, arXiv:1904.06991",
        "fidelity",
    ),
    MetricInfo(
        "density",
        "density",
        "higher",
        1.0,
        "how many balls around held-out items a sample falls into; robust precision, may exceed 1",
        "Naeem et al. 2020, arXiv:2002.09797",
        "fidelity",
    ),
    MetricInfo(
        "two_sample_1nn",
        "1-NN two-sample",
        "0.5",
        0.5,
        "accuracy of telling samples from held-out data by their nearest neighbour; 0.5 is perfect",
        "Lopez-Paz and Oquab 2017, arXiv:1610.06545",
        "fidelity",
    ),
    MetricInfo(
        "sliced_wasserstein",
        "sliced Wasserstein",
        "lower",
        0.0,
        "mean distance of one-dimensional projections, in standardized coordinates",
        "Bonneel et al. 2015, doi:10.1007/s10851-014-0506-3",
        "fidelity",
    ),
    MetricInfo(
        "recall",
        "recall",
        "higher",
        None,
        "share of held-out data that lie where samples lie",
        "Kynkäänniemi et al. 2019, arXiv:1904.06991",
        "diversity",
    ),
    MetricInfo(
        "coverage",
        "coverage",
        "higher",
        None,
        "share of held-out items with a sample among their near neighbours; robust recall",
        "Naeem et al. 2020, arXiv:2002.09797",
        "diversity",
    ),
    MetricInfo(
        "cas",
        "CAS",
        "higher",
        None,
        "accuracy on held-out data of a classifier trained on labelled samples only",
        "Ravuri and Vinyals 2019, arXiv:1905.10887",
        "diversity",
    ),
    MetricInfo(
        "class_histogram_tv",
        "class histogram",
        "lower",
        0.0,
        "total variation between the classes of samples and of the training data",
        "Santurkar et al. 2018, arXiv:1711.00970",
        "diversity",
    ),
    MetricInfo(
        "modes_covered",
        "modes covered",
        "higher",
        None,
        "number of modes with at least one good sample",
        "Lin et al. 2018 (PacGAN), arXiv:1712.04086",
        "modes",
    ),
    MetricInfo(
        "high_quality_share",
        "high-quality share",
        "higher",
        None,
        "share of samples within three standard deviations of a mode",
        "Lin et al. 2018 (PacGAN), arXiv:1712.04086",
        "modes",
    ),
    MetricInfo(
        "train_nn_share",
        "train-NN share",
        "0.5",
        0.5,
        "share of samples that lie nearer to training than to held-out data; above 0.5 memorizes",
        "Xu et al. 2018, arXiv:1806.07755",
        "memorization",
    ),
    MetricInfo(
        "duplicates",
        "exact duplicates",
        "lower",
        None,
        "number of samples that equal a training or held-out item",
        "",
        "memorization",
    ),
    MetricInfo(
        "near_duplicates",
        "near duplicates",
        "lower",
        0.01,
        "share of samples nearer to a real item than 99 % of real items are to each other",
        "",
        "memorization",
    ),
    MetricInfo(
        "bits_per_dim",
        "bits/dim",
        "lower",
        None,
        "negative log-likelihood of held-out images per pixel; compare exact, bound and estimate "
        "only with care",
        "Theis et al. 2016, arXiv:1511.01844",
        "likelihood",
    ),
    MetricInfo(
        "nll_nats",
        "NLL (nats)",
        "lower",
        None,
        "negative log-density of held-out points",
        "",
        "likelihood",
    ),
    MetricInfo(
        "training_seconds",
        "training time (s)",
        "lower",
        None,
        "wall-clock seconds spent training",
        "",
        "cost",
    ),
    MetricInfo(
        "training_images_per_second",
        "training speed (items/s)",
        "higher",
        None,
        "training items seen per second",
        "",
        "cost",
    ),
    MetricInfo("parameters", "parameters", "none", None, "number of trained weights", "", "cost"),
    MetricInfo(
        "samples_per_second",
        "sampling speed (samples/s)",
        "higher",
        None,
        "samples drawn per second",
        "",
        "cost",
    ),
    MetricInfo(
        "nfe",
        "network evaluations per sample",
        "lower",
        None,
        "how often the network is evaluated for one sample",
        "",
        "cost",
    ),
)
METRICS: Mapping[str, MetricInfo] = {info.name: info for info in _ALL}
