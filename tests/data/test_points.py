"""The densities of the plane's distributions are densities, and those of their samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from genzoo.data import open_dataset
from genzoo.data.points import LAWS

# Boxes that hold all but a vanishing part of the mass.
BOXES = {
    "ring": (-1.08, 1.08, 1080),
    "grid": (-4.4, 4.4, 880),
    "swiss-roll": (-3.6, 3.6, 160),
    "moons": (-1.4, 2.4, 140),
    "checkerboard": (-4.0, 4.0, 400),
}


def quadrature(name: str) -> tuple[float, float, float]:
    """Mass, entropy in nats and standard deviation of -log p, by the midpoint rule."""
    low, high, cells = BOXES[name]
    step = (high - low) / cells
    axis = low + step * (torch.arange(cells, dtype=torch.float64) + 0.5)
    log_p = LAWS[name].log_density(torch.cartesian_prod(axis, axis))
    p = log_p.exp() * step**2
    information = torch.where(p > 0, -log_p, 0.0)
    entropy = float((p * information).sum())
    return float(p.sum()), entropy, float((p * (information - entropy) ** 2).sum()) ** 0.5


@pytest.mark.parametrize("name", LAWS)
def test_density_integrates_to_one_and_is_that_of_the_samples(name):
    mass, entropy, spread = quadrature(name)
    assert mass == pytest.approx(1, abs=2e-4)
    data = open_dataset(name)
    for points in (data.train.data[:4000], data.test.data):
        surprise = -data.log_density(points)
        assert surprise.isfinite().all()
        assert abs(float(surprise.mean()) - entropy) < 4.5 * spread / math.sqrt(len(points)) + 1e-3


@pytest.mark.parametrize("name", ["swiss-roll", "moons"])
def test_quadrature_along_the_curve_has_converged(name):
    law = LAWS[name]
    points = open_dataset(name).test.data[:300] * 1.1
    finer = type(law)(law.curves, law.start, law.stop, law.sigma, panels=2 * law.panels)
    torch.testing.assert_close(
        law.log_density(points), finer.log_density(points), atol=1e-7, rtol=0
    )


@pytest.mark.parametrize("name", LAWS)
def test_points_are_the_same_each_time_and_differ_between_splits(name):
    first, second = open_dataset(name), open_dataset(name)
    assert first.fingerprint == second.fingerprint
    assert torch.equal(first.train.data, second.train.data)
    assert first.train.data.shape == (20_000, 2) and first.test.data.shape == (5_000, 2)
    assert first.train.data.dtype == torch.float32
    assert not set(map(tuple, first.train.data.tolist())) & set(
        map(tuple, first.test.data.tolist())
    )
    assert first.train.labels is None and first.spec.cond == {}


def test_fingerprints_tell_the_points_apart():
    assert len({open_dataset(name).fingerprint for name in LAWS}) == len(LAWS)


@pytest.mark.parametrize(("name", "count", "sigma"), [("ring", 8, 0.01), ("grid", 25, 0.05)])
def test_modes(name, count, sigma):
    data = open_dataset(name)
    assert data.modes.sigma == sigma and data.modes.centers.shape == (count, 2)
    distance, mode = torch.cdist(data.test.data, data.modes.centers).min(1)
    assert len(mode.unique()) == count
    # The share within 3 sigma of a Gaussian in the plane is 1 - exp(-4.5).
    assert float((distance < 3 * sigma).float().mean()) == pytest.approx(0.98889, abs=0.006)


def test_standardization_is_that_of_the_training_points():
    data = open_dataset("swiss-roll")
    np.testing.assert_allclose(data.spec.location, data.train.data.mean(0), atol=1e-5)
    np.testing.assert_allclose(data.spec.scale, data.train.data.std(0), atol=1e-5)


def test_checkerboard_is_empty_between_its_squares():
    log_density = LAWS["checkerboard"].log_density
    inside, outside = torch.tensor([[-3.0, -3.0], [1.0, 1.0]]), torch.tensor([[-1.0, -3], [5, 5]])
    assert torch.allclose(log_density(inside), torch.tensor(-math.log(32)).double())
    assert (log_density(outside) == -math.inf).all()


@pytest.mark.parametrize(
    ("name", "on", "off"),
    [
        ("ring", [(1, 0), (0.5**0.5, -(0.5**0.5))], [(0, 0), (0.92, 0.38)]),
        ("grid", [(-4, 4), (2, 0)], [(1, 1), (6, 0)]),
        ("moons", [(0, 1), (-1, 0), (1, -0.5), (2, 0.5)], [(1, 1.5), (0, -0.5), (0.5, -1)]),
        ("swiss-roll", [(0, -0.3 * math.pi), (0.4 * math.pi, 0)], [(0, 0), (-1.2, 0)]),
    ],
)
def test_where_the_mass_lies(name, on, off):
    log_density = LAWS[name].log_density
    inside, outside = (log_density(torch.tensor(points).double()) for points in (on, off))
    assert inside.min() > outside.max() + 3
