"""Features learned from images without labels, in seconds, in closed form but for k-means.

Two steps. First every image is described by the patches that return in the data: whitened
patches, k-means, soft assignment and averages over a 4x4 grid (Coates, Ng and Lee, AISTATS
2011). Then those directions are kept that tell one image from another in spite of small
distortions: every image is its own class, its distorted views are the members, and linear
discriminant analysis finds the directions. It is the closed form of a linear encoder under
VICReg-like losses (Balestriero and LeCun 2022, arXiv:2205.11508).

Measured with hidden labels on 2,000 images (digits: 1,000), tested on 2,000 others (797):
accuracy of 5 nearest neighbours / of a linear probe in %, standard error .4 to .9:

============== ============= ============ ===============
space          digits        MNIST        Fashion-MNIST
============== ============= ============ ===============
pixels         98.9 / 96.2   91.4 / 87.8  77.8 / 77.1
pca            98.9 / 94.7   92.4 / 87.2  78.5 / 78.1
random network 97.2 / 96.9   85.0 / 89.5  74.4 / 75.7
contrastive    99.4 / 99.4   96.2 / 97.1  76.2 / 78.3
this           99.0 / 99.5   95.9 / 96.7  80.3 / 82.3
============== ============= ============ ===============

The contrastive network (NT-Xent, the classifier's body, 400 steps) took ten times as long.
What the Fréchet distance at N = 500 makes of a Gaussian per class / of one Gaussian, in
standard deviations above real images, on MNIST and Fashion-MNIST: pca 18 / 21 and 3 / 8, the
supervised classifier 15 / 37 and 10 / 51, this 21 / 41 and 16 / 64. A missing class stands out
no better than in pca (3.7 and 1.1 against 4.1 and 1.5; the classifier: 6.1 and 2.8).

There is no mirroring among the distortions, and neither noise nor blur: what the features
are made blind to, they cannot measure. Images that it was fitted on are a little
further from held-out ones than fresh images are: by 5 to 9 % of the floor of the Fréchet
distance (N = 200 and 2,000, four repeats each, every one within two standard errors).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from genzoo.data.ranges import to_display
from genzoo.errors import InputError
from genzoo.evaluation.extractors import fitted
from genzoo.evaluation.extractors.fitted import Fitted
from genzoo.evaluation.features import Extractor, Features, Request, content_hash
from genzoo.evaluation.result import FeatureInfo
from genzoo.noise import derive_seed
from genzoo.progress import Progress
from genzoo.training.device import limited_threads

# Goes into the cache key: raise it whenever the recipe changes.
VERSION = 1
WIDTH = 64
FIT_ITEMS = 2000
MAX_SIDE = 64
# Patches are taken at 16 places along the longer side; they reach 5 of these places.
PLACES, REACH = 16, 5
PATCHES, COMPONENTS, CENTERS, LLOYD_STEPS = 20_000, 40, 128, 12
GRID = 4
SMOOTHING = 0.1
VIEWS, KEPT, RIDGE = 4, 256, 0.1
# Reach of the distortions: radians, relative size and shift, contrast.
ROTATION, SCALE, SHIFT, CONTRAST = 0.1, 0.1, 0.1, 0.1
BATCH = 128


class SelfSupervised(Extractor):
    """Patch features in discriminant directions, in one unit of mean square 1."""

    chunk = BATCH

    def __init__(
        self, weights: Mapping[str, Tensor], split: str, items: int, device: torch.device
    ) -> None:
        """Use what `fit` found."""
        dim = weights["axes"].shape[1]
        info = FeatureInfo("self-supervised", content_hash(weights), None, split, dim, items)
        super().__init__(info, device)
        self.weights = {k: v.to(device) for k, v in weights.items() if k in _PATCH_PARTS}
        self.mean, self.axes = weights["mean"].to(self.home), weights["axes"].to(self.home)

    def _extract(self, items: Tensor) -> Features:
        described = describe(shrink(items.to(self.device)), self.weights)
        return Features((described.to(self.home).double() - self.mean) @ self.axes)


def shrink(images: Tensor) -> Tensor:
    """uint8 (N, C, H, W) -> [0, 1], averaged over blocks so that no side exceeds `MAX_SIDE`."""
    x = images.float() / 255
    block = -(-max(images.shape[2:]) // MAX_SIDE)
    return F.avg_pool2d(x, block, ceil_mode=True) if block > 1 else x


def describe(x: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    """How strongly each kind of patch is present in each cell of a 4x4 grid.

    Args:
        x: (N, C, H, W) in [0, 1].
        weights: ``kernel`` (P, C, s, s) and ``offset`` (P,) whiten a patch; ``centers`` (K, P).

    Returns:
        (N, 16 K): averages of max(0, mean distance - distance) to each center
        (Coates et al. 2011, eq. 4).
    """
    kernel, centers = weights["kernel"], weights["centers"]
    size = kernel.shape[-1]
    padded = F.pad(x, (size // 2,) * 4, mode="replicate")
    z = F.conv2d(padded, kernel, weights["offset"], stride=size // REACH)
    cross = F.conv2d(z, centers[:, :, None, None])
    squares = z.square().sum(1, keepdim=True) - 2 * cross
    distance = (squares + centers.square().sum(1)[:, None, None]).clamp(min=0).sqrt()
    near = F.relu(distance.mean(1, keepdim=True) - distance)
    return F.adaptive_avg_pool2d(near, GRID).flatten(1)


def fit(images: Tensor, progress: Progress) -> dict[str, Tensor]:
    """Learn the features from at most `FIT_ITEMS` images (N, C, H, W) uint8.

    On the CPU with one thread and a fixed seed; no global random state is touched.

    Raises:
        InputError: the images are all alike, so that there is nothing to learn.
    """
    random = torch.Generator().manual_seed(derive_seed(20_241_124, VERSION))
    with limited_threads(1), torch.no_grad():
        x = shrink(fitted.some(images, FIT_ITEMS))
        progress.update("feature extractor", 0.0, "patches")
        weights = _learn_patches(x, random)
        progress.update("feature extractor", 0.4, "directions")
        directions = _learn_directions(x, weights, random)
        progress.update("feature extractor", 1.0)
    return {**weights, **directions}


def _learn_patches(x: Tensor, random: torch.Generator) -> dict[str, Tensor]:
    """Whitening and k-means of random patches; see `describe`."""
    stride = -(-max(x.shape[2:]) // PLACES)
    size = REACH * stride
    padded = F.pad(x, (size // 2,) * 4, mode="replicate")
    windows = padded.unfold(2, size, stride).unfold(3, size, stride)  # (N, C, h, w, s, s), a view
    image, row, column = (
        torch.randint(windows.shape[axis], (PATCHES,), generator=random) for axis in (0, 2, 3)
    )
    patches = windows[image, :, row, column].flatten(1)
    mean = patches.double().mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(patches.T.double()))
    values, vectors = values[-COMPONENTS:].clamp(min=0), vectors[:, -COMPONENTS:]
    # Smoothing keeps faint directions, which are mostly noise, from being blown up.
    scale = (values + SMOOTHING * values.mean()).sqrt().clamp(min=1e-6)
    whiten = vectors / scale
    z = ((patches - mean.float()) @ whiten.float()).contiguous()
    return {
        "kernel": whiten.T.reshape(-1, x.shape[1], size, size).float().contiguous(),
        "offset": -(mean @ whiten).float(),
        "centers": _k_means(z, random),
    }


def _k_means(z: Tensor, random: torch.Generator) -> Tensor:
    """Lloyd's algorithm from random members: centers (K, P) of z (N, P)."""
    centers = z[torch.randperm(len(z), generator=random)[:CENTERS]]
    for _ in range(LLOYD_STEPS):
        member = torch.cdist(z, centers).argmin(1)
        sums = torch.zeros_like(centers).index_add_(0, member, z)
        counts = torch.bincount(member, minlength=len(centers))[:, None]
        centers = torch.where(counts > 0, sums / counts.clamp(min=1), centers)
    return centers


def _learn_directions(
    x: Tensor, weights: Mapping[str, Tensor], random: torch.Generator
) -> dict[str, Tensor]:
    """Directions in which images differ more than their own distorted views do.

    Features are scaled so that the (smoothed) variance between views is the same in every
    direction: the more a direction tells, the more it counts.
    """
    plain = torch.cat([describe(part, weights) for part in x.split(BATCH)]).double()
    mean = plain.mean(0)
    _, spread, axes = torch.linalg.svd((plain - mean).float(), full_matrices=False)
    rank = int((spread > 1e-4 * spread[0]).sum()) if float(spread[0]) > 1e-4 else 0
    if rank < 1 or len(x) < 2:
        why = "the images are all alike" if len(x) > 1 else "there is a single real image"
        raise InputError(f"{why}, so no features can be learned; use --features pixels")
    kept = min(KEPT, rank)
    scale = spread[:kept].double() / len(x) ** 0.5
    white = axes[:kept].T.double() / scale
    views = torch.stack([_views(x, weights, random) for _ in range(VIEWS)])
    views = (views - mean) @ white
    within = (views - views.mean(0)).flatten(0, 1)
    within = within.T @ within / (len(x) * (VIEWS - 1))
    within += RIDGE * within.diagonal().mean() * torch.eye(kept, dtype=within.dtype)
    root = torch.linalg.cholesky(within)
    total = torch.cov(views.flatten(0, 1).T).reshape(kept, kept)
    half = torch.linalg.solve_triangular(root, total, upper=False)
    told = torch.linalg.solve_triangular(root, half.T, upper=False)
    _, directions = torch.linalg.eigh((told + told.T) / 2)
    best = directions.flip(1)[:, :WIDTH]
    found = white @ torch.linalg.solve_triangular(root.T, best, upper=True)
    unit = ((plain - mean) @ found).square().mean().sqrt()
    return {"mean": mean, "axes": (found / unit).contiguous()}


def _views(x: Tensor, weights: Mapping[str, Tensor], random: torch.Generator) -> Tensor:
    return torch.cat([describe(distort(p, random), weights) for p in x.split(BATCH)]).double()


def distort(x: Tensor, random: torch.Generator) -> Tensor:
    """Each image (N, C, H, W) a little turned, sheared, sized, moved, and of other contrast."""

    def uniform(reach: float) -> Tensor:
        return (torch.rand(len(x), generator=random) * 2 - 1) * reach

    angle, shear = uniform(ROTATION), uniform(SCALE / 1.5)
    width = 1 + uniform(SCALE)
    height = width * (1 + uniform(SCALE / 2))
    sine, cosine = angle.sin(), angle.cos()
    upper = torch.stack([cosine * width, shear - sine * height, uniform(SHIFT)], 1)
    lower = torch.stack([sine * width, cosine * height, uniform(SHIFT)], 1)
    grid = F.affine_grid(torch.stack([upper, lower], 1), list(x.shape), align_corners=False)
    moved = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    gain = uniform(CONTRAST).exp()[:, None, None, None]
    light = uniform(CONTRAST / 2)[:, None, None, None]
    return ((moved - 0.5) * gain + 0.5 + light).clamp(0, 1)


def open_self_supervised(request: Request) -> SelfSupervised:
    """From the cache, or learned now."""
    dataset = request.dataset
    split, name = fitted.fit_split(dataset)
    path = fitted.cache_path(dataset, request.folder, f"self-supervised-v{VERSION}")
    found = fitted.load(path, request.progress)
    if found is None:
        request.progress.note(f"learning the features of {dataset.name}, once")
        found = Fitted(fit(to_display(split.data, dataset.spec), request.progress), None)
        fitted.save(path, found, request.progress)
    items = min(len(split.data), FIT_ITEMS)
    return SelfSupervised(found.weights, name, items, request.device)


_PATCH_PARTS = ("kernel", "offset", "centers")
