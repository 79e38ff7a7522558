"""The registry of metrics: what each is called, says and is measured by. Imports no torch.

A new metric is a function of a `genzoo.evaluation.view.View` in one file and an entry here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Better = Literal["lower", "higher", "0.5", "0", "1", "none"]
TARGETS = frozenset({"0", "0.5", "1"})
"""Directions of metrics that are good near a number rather than high or low."""
Group = Literal["fidelity", "diversity", "modes", "memorization", "likelihood", "cost"]
Space = Literal["features", "pixels", "none"]
Floor = Literal["features", "pixels", "memory", "held-out", "none"]


@dataclass(frozen=True)
class MetricInfo:
    """One metric.

    Attributes:
        name: key in ``scores.json``.
        title: short heading.
        better: which way is better; ``0``, ``0.5`` and ``1`` mean the nearer to that.
        ideal: the value of a perfect model where it does not depend on the data.
        explanation: one line for a reader who sees the metric for the first time.
        reference: where it was defined.
        group: which question it answers.
        measure: ``module:function`` in `genzoo.evaluation`; the function may yield several
            metrics. Empty for costs and likelihoods, which need more than samples.
        space: where distances are taken, so that scores can name their feature space.
        floor: which real items take the samples' place for the floor: ``features``, items that
            the extractor knows no better than the held-out ones; ``pixels``, training items;
            ``memory``, half of the held-out items, with the other half held out;
            ``held-out``, held-out items. ``none`` where theory gives the floor or there is none.
        null_order: the value between equal laws goes as N to this power, so that a floor
            measured at fewer items can be carried over to N.
    """

    name: str
    title: str
    better: Better
    ideal: float | None
    explanation: str
    reference: str
    group: Group
    measure: str = ""
    space: Space = "none"
    floor: Floor = "none"
    null_order: float = 0.0


_FIDELITY = (
    MetricInfo(
        "fd",
        "Fréchet distance",
        "lower",
        0.0,
        "distance between Gaussians fitted to the features of samples and of held-out data",
        "Heusel et al. 2017, arXiv:1706.08500",
        "fidelity",
        "fidelity:frechet",
        "features",
        "features",
        null_order=-1.0,
    ),
    MetricInfo(
        "fd_infinity",
        "FD∞",
        "lower",
        0.0,
        "Fréchet distance extrapolated to infinitely many items, free of its bias in N",
        "Chong and Forsyth 2020, arXiv:1911.07023",
        "fidelity",
        "fidelity:frechet_infinity",
        "features",
        "features",
    ),
    MetricInfo(
        "fd_all",
        "Fréchet distance, all samples",
        "lower",
        0.0,
        "the same over all samples of a set that was gathered part by part",
        "Heusel et al. 2017, arXiv:1706.08500",
        "fidelity",
        "shards:whole",
        "features",
    ),
    MetricInfo(
        "kid",
        "KID",
        "lower",
        0.0,
        "squared distance of the feature laws under a cubic kernel; unbiased, may be below 0",
        "Binkowski et al. 2018, arXiv:1801.01401",
        "fidelity",
        "fidelity:kernel",
        "features",
        "features",
    ),
    MetricInfo(
        "inception_score",
        "Inception score",
        "higher",
        None,
        "confident and varied class predictions; looks at no real data",
        "Salimans et al. 2016, arXiv:1606.03498",
        "fidelity",
        "fidelity:inception",
        "features",
        "held-out",
    ),
    MetricInfo(
        "inception_score_all",
        "Inception score, all samples",
        "higher",
        None,
        "the same over all samples of a set that was gathered part by part",
        "Salimans et al. 2016, arXiv:1606.03498",
        "fidelity",
        "shards:whole",
        "features",
    ),
    MetricInfo(
        "precision",
        "precision",
        "higher",
        None,
        "share of samples that lie where held-out data lie",
        "Kynkäänniemi et al. 2019, arXiv:1904.06991",
        "fidelity",
        "neighbours:manifolds",
        "features",
        "features",
    ),
    MetricInfo(
        "density",
        "density",
        "higher",
        1.0,
        "how many balls around held-out items a sample falls into; robust precision, may exceed 1",
        "Naeem et al. 2020, arXiv:2002.09797",
        "fidelity",
        "neighbours:manifolds",
        "features",
    ),
    MetricInfo(
        "two_sample_1nn",
        "1-NN two-sample",
        "0.5",
        0.5,
        "accuracy of telling samples from held-out data by their nearest neighbour; 0.5 is perfect",
        "Lopez-Paz and Oquab 2017, arXiv:1610.06545",
        "fidelity",
        "neighbours:two_sample",
        "pixels",
        "pixels",
    ),
    MetricInfo(
        "c2st",
        "C2ST",
        "0.5",
        0.5,
        "accuracy of a classifier trained to tell samples from held-out data; 0.5 is perfect",
        "Lopez-Paz and Oquab 2017, arXiv:1610.06545",
        "fidelity",
        "c2st:c2st",
        "features",
        "features",
    ),
    MetricInfo(
        "sliced_wasserstein",
        "sliced Wasserstein",
        "lower",
        0.0,
        "mean distance of one-dimensional projections",
        "Bonneel et al. 2015, doi:10.1007/s10851-014-0506-3",
        "fidelity",
        "sliced:sliced",
        "features",
        "features",
        null_order=-0.5,
    ),
)
_DIVERSITY = (
    MetricInfo(
        "recall",
        "recall",
        "higher",
        None,
        "share of held-out data that lie where samples lie",
        "Kynkäänniemi et al. 2019, arXiv:1904.06991",
        "diversity",
        "neighbours:manifolds",
        "features",
        "features",
    ),
    MetricInfo(
        "coverage",
        "coverage",
        "higher",
        None,
        "share of held-out items with a sample among their near neighbours; robust recall",
        "Naeem et al. 2020, arXiv:2002.09797",
        "diversity",
        "neighbours:manifolds",
        "features",
    ),
    MetricInfo(
        "vendi",
        "Vendi score",
        "higher",
        None,
        "effective number of different samples; rewards noise as well as variety",
        "Friedman and Dieng 2023, arXiv:2210.02410",
        "diversity",
        "diversity:vendi",
        "features",
        "held-out",
    ),
    MetricInfo(
        "ndb",
        "NDB/K",
        "lower",
        0.05,
        "share of regions of the data that hold significantly too many or too few samples",
        "Richardson and Weiss 2018, arXiv:1805.12462",
        "diversity",
        "diversity:ndb",
        "pixels",
        "held-out",
    ),
    MetricInfo(
        "cas",
        "CAS",
        "higher",
        None,
        "accuracy on held-out data of a classifier trained on labelled samples only",
        "Ravuri and Vinyals 2019, arXiv:1905.10887",
        "diversity",
        "classes:cas",
        "pixels",
        "pixels",
    ),
    MetricInfo(
        "class_coverage",
        "classes covered",
        "higher",
        None,
        "number of classes with at least a fifth of the samples that are expected of them",
        "Santurkar et al. 2018, arXiv:1711.00970",
        "diversity",
        "classes:histogram",
        "features",
        "held-out",
    ),
    MetricInfo(
        "class_histogram_tv",
        "class histogram",
        "lower",
        0.0,
        "total variation between the classes of samples and of the training data",
        "Santurkar et al. 2018, arXiv:1711.00970",
        "diversity",
        "classes:histogram",
        "features",
        "held-out",
        null_order=-0.5,
    ),
    MetricInfo(
        "bias_amplification",
        "bias amplification",
        "1",
        1.0,
        "share of the training data's majority classes among samples, over their true share; "
        "above 1 the model favours the frequent",
        "after Zhao et al. 2017, arXiv:1707.09457",
        "diversity",
        "classes:histogram",
        "features",
        "held-out",
    ),
    MetricInfo(
        "distinct",
        "distinct items",
        "higher",
        None,
        "estimated size of what a model can make, from how often two samples are near copies",
        "Arora and Zhang 2018, arXiv:1706.08224",
        "diversity",
        "birthday:birthday",
        "pixels",
        "held-out",
    ),
)
_MODES = (
    MetricInfo(
        "modes_covered",
        "modes covered",
        "higher",
        None,
        "number of modes with at least one good sample",
        "Lin et al. 2018 (PacGAN), arXiv:1712.04086",
        "modes",
        "modes:measure",
        "none",
        "held-out",
    ),
    MetricInfo(
        "modes_well_covered",
        "modes well covered",
        "higher",
        None,
        "number of modes with at least a fifth of the samples that are expected of them; scattered "
        "mistakes of a classifier do not invent these, systematic ones can",
        "",
        "modes",
        "modes:measure",
        "none",
        "held-out",
    ),
    MetricInfo(
        "high_quality_share",
        "high-quality share",
        "higher",
        None,
        "share of samples within three standard deviations of a mode",
        "Lin et al. 2018 (PacGAN), arXiv:1712.04086",
        "modes",
        "modes:measure",
        "none",
        "held-out",
    ),
    MetricInfo(
        "mode_spread",
        "spread within modes",
        "1",
        1.0,
        "standard deviation of good samples around their mode, over the true one; below 1 the "
        "modes shrank",
        "",
        "modes",
        "modes:measure",
        "none",
        "held-out",
    ),
    MetricInfo(
        "mode_kl",
        "KL (samples ‖ truth)",
        "lower",
        0.0,
        "how unevenly samples are spread over the modes, in nats",
        "Lin et al. 2018 (PacGAN), arXiv:1712.04086",
        "modes",
        "modes:measure",
        "none",
        "held-out",
    ),
    MetricInfo(
        "mode_kl_reverse",
        "KL (truth ‖ samples)",
        "lower",
        0.0,
        "how much the samples neglect the worst served modes, in nats",
        "Lin et al. 2018 (PacGAN), arXiv:1712.04086",
        "modes",
        "modes:measure",
        "none",
        "held-out",
    ),
)
_MEMORIZATION = (
    MetricInfo(
        "train_nn_share",
        "train-NN share",
        "0.5",
        0.5,
        "share of samples that lie nearer to training than to held-out data; above 0.5 memorizes",
        "Xu et al. 2018, arXiv:1806.07755",
        "memorization",
        "memorization:neighbours",
        "pixels",
        "memory",
    ),
    MetricInfo(
        "near_duplicates",
        "near duplicates",
        "lower",
        0.01,
        "share of samples nearer to a real item than 99 % of real items are to each other",
        "",
        "memorization",
        "memorization:neighbours",
        "pixels",
        "memory",
    ),
    MetricInfo(
        "authenticity",
        "authenticity",
        "1",
        1.0,
        "share of samples that are no closer to a training item than its own nearest neighbour, "
        "over the same share of held-out data; below 1 memorizes",
        "Alaa et al. 2022, arXiv:2102.08921",
        "memorization",
        "memorization:neighbours",
        "pixels",
        "memory",
    ),
    MetricInfo(
        "duplicates",
        "exact duplicates",
        "lower",
        None,
        "number of samples that equal a training item",
        "",
        "memorization",
        "memorization:duplicates",
        "none",
        "memory",
    ),
    MetricInfo(
        "test_duplicates",
        "duplicates of held-out data",
        "lower",
        None,
        "number of samples that equal a held-out item",
        "",
        "memorization",
        "memorization:duplicates",
        "none",
        "memory",
    ),
    MetricInfo(
        "c_t",
        "C_T",
        "0",
        0.0,
        "are samples nearer to training data than held-out data are, in each region: far below 0 "
        "copies, far above 0 underfits",
        "Meehan et al. 2020, arXiv:2004.05675",
        "memorization",
        "memorization:c_t",
        "pixels",
        "memory",
    ),
    MetricInfo(
        "fld_gap",
        "FLD gap",
        "0",
        0.0,
        "how much better samples explain training than held-out features, in hundredths of a nat "
        "per dimension; above 0 memorizes",
        "Jiralerspong et al. 2023, arXiv:2302.04440",
        "memorization",
        "memorization:fld_gap",
        "features",
        "memory",
    ),
)
_LIKELIHOOD = (
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
)
_COST = (
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
    MetricInfo(
        "training_flops",
        "training work (FLOPs)",
        "lower",
        None,
        "floating-point operations of the training, forward and backward",
        "",
        "cost",
    ),
    MetricInfo(
        "utilization",
        "utilization",
        "none",
        None,
        "share of the machine's matrix-product speed that the training reached",
        "Chowdhery et al. 2022, arXiv:2204.02311",
        "cost",
    ),
    MetricInfo(
        "peak_memory_gb",
        "memory (GB)",
        "lower",
        None,
        "most memory held during training",
        "",
        "cost",
    ),
    MetricInfo(
        "energy_joules",
        "energy (J)",
        "lower",
        None,
        "what the machine's own counter says of the training",
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
        "samples_per_second_1",
        "sampling speed, one at a time (samples/s)",
        "higher",
        None,
        "samples drawn per second, each in a call of its own",
        "",
        "cost",
    ),
    MetricInfo(
        "samples_per_second_64",
        "sampling speed, 64 at a time (samples/s)",
        "higher",
        None,
        "samples drawn per second in batches of 64",
        "",
        "cost",
    ),
    MetricInfo(
        "first_sample_seconds",
        "first sample (s)",
        "lower",
        None,
        "from loaded weights to a first sample",
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
METRICS: Mapping[str, MetricInfo] = {
    info.name: info
    for info in (*_FIDELITY, *_DIVERSITY, *_MODES, *_MEMORIZATION, *_LIKELIHOOD, *_COST)
}


def distance(better: str, value: float) -> float:
    """How far from good a value is; smaller is better for every metric.

    >>> distance("0.5", 0.75), distance("higher", 3.0)
    (0.25, -3.0)
    """
    if better in TARGETS:
        return abs(value - float(better))
    return -value if better == "higher" else value
