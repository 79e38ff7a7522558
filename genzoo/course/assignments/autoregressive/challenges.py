"""An autoregressive model: sums over all outcomes, and logits that the grader says. NumPy alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import numpy as np

from genzoo.course.grading.judge import Session, close, share


def pixel_order(kind: str, height: int, width: int) -> np.ndarray:
    """Eq. (1)."""
    numbers = np.arange(height * width).reshape(height, width)
    if kind == "columns":
        numbers = numbers.T
    elif kind == "serpentine":
        numbers[1::2] = numbers[1::2, ::-1]
    return numbers.ravel()


def order(session: Session) -> float:
    """The order of the pixels, eq. (1), of fresh sizes."""
    parts = []
    for height, width in session.random.integers(2, 9, (3, 2)).tolist():
        (found,) = session.call("pixel_order", height, width)
        parts.append(close(found, pixel_order(session.choices["order"], height, width)))
    return share(parts)


def degrees(session: Session) -> float:
    """The degrees of the hidden units, eq. (3)."""
    parts = []
    for _ in range(3):
        units, pixels = int(session.random.integers(20, 90)), int(session.random.integers(4, 19))
        j = np.arange(units)
        cyclic = session.choices["degrees"] == "cyclic"
        (found,) = session.call("hidden_degrees", units, pixels)
        parts.append(close(found, j % pixels if cyclic else j * pixels // units))
    return share(parts)


def mask(session: Session) -> float:
    """The mask of a layer, eq. (4), and of the last one."""
    before, after = session.random.integers(0, 9, 12), session.random.integers(0, 9, 10)
    gap = after[:, None] - before[None]
    found = [session.call("connections", before, after, strict)[0] for strict in (False, True)]
    return share([close(found[0], gap >= 0), close(found[1], gap > 0)])


def softmax(a: np.ndarray) -> np.ndarray:
    """Over the last dimension."""
    p = np.exp(a - a.max(-1, keepdims=True))
    return np.asarray(p / p.sum(-1, keepdims=True))


def masses(session: Session) -> bool:
    """The log-probability of each pixel's level, eq. (5)."""
    logits, levels = 2 * session.normal(7, 9, 5), session.random.integers(0, 5, (7, 9))
    right = np.log(np.take_along_axis(softmax(logits), levels[..., None], 2))[..., 0]
    return close(session.call("log_masses", logits, levels)[0], right)


def bits(session: Session) -> bool:
    """Bits per dimension, eq. (6)."""
    log_p, pixels = -50 * session.uniform(0.5, 1.5, 8), int(session.random.integers(10, 99))
    right = -log_p.mean() / (pixels * math.log(2))
    return close(session.call("bits_per_dim", log_p, pixels)[0], right)


LEVELS = 3
IMAGES = np.array(list(itertools.product(range(LEVELS), repeat=4)))
"""All images of 2 × 2 pixels."""


def log_prob(session: Session) -> bool:
    """The log-probability of an image, eq. (8), of known logits and masses."""
    weights = session.normal(4, 4, LEVELS)
    asked = {"op": "known_log_prob", "levels": LEVELS}
    (found,) = session.ask(asked, {"images": IMAGES, "weights": weights})
    known = np.einsum("bd,dek->bek", IMAGES.astype(float), weights)
    return close(found, (known.sum(2) * IMAGES).sum(1))  # masses are made up


def sums_to_one(session: Session) -> bool:
    """The network's probabilities sum to one over all outcomes."""
    asked = {"op": "log_prob", "levels": LEVELS, "seed": session.seed()}
    (found,) = session.ask(asked, {"images": IMAGES})
    if found.shape != (len(IMAGES),) or not np.isfinite(found).all():
        return False
    # A flat law would sum to one, too.
    return bool(abs(np.exp(found).sum() - 1) < 1e-4 and found.std() > 0.01)


def blind(session: Session) -> bool:
    """No pixel sees itself or a later one."""
    order = pixel_order(session.choices["order"], 2, 2)
    asked = {"op": "logits", "levels": LEVELS, "seed": session.seed()}
    (found,) = session.ask(asked, {"images": IMAGES})
    if found.shape != (len(IMAGES), 4, LEVELS):
        return False
    for place, pixel in enumerate(order):
        groups: dict[tuple[int, ...], np.ndarray] = {}
        for image, logits in zip(IMAGES, found[:, pixel], strict=True):
            seen = tuple(image[order[:place]])
            if not close(logits, groups.setdefault(seen, logits), 1e-4):
                return False
    return bool(found[:, order[-1]].std(0).max() > 1e-3)  # the last one sees something


def draw(
    session: Session, logits: np.ndarray, uniform: np.ndarray, temperature: float
) -> np.ndarray:
    """Eq. (7)."""
    if session.choices["sampling"] == "inverse-cdf":
        cdf = np.cumsum(softmax(logits / temperature), -1)
        levels = (cdf <= uniform[:, None]).sum(-1)
        return np.asarray(np.minimum(levels, logits.shape[-1] - 1))
    return np.asarray((logits / temperature - np.log(-np.log(uniform))).argmax(-1))


def numbers(session: Session, *shape: int, levels: int) -> np.ndarray:
    """The uniform numbers that the variant takes for pixels of a shape."""
    if session.choices["sampling"] == "inverse-cdf":
        return session.uniform(0, 1, *shape)
    return session.uniform(1e-6, 1 - 1e-6, *shape, levels)


def pick(session: Session) -> float:
    """Levels drawn from fresh logits, eq. (7), at fresh temperatures."""
    parts = []
    for temperature in session.uniform(0.4, 2.0, 4):
        logits, u = 2 * session.normal(60, 6), numbers(session, 60, levels=6)
        (found,) = session.call("pick", logits, u, float(temperature))
        parts.append(close(found, draw(session, logits, u, temperature)))
    return share(parts)


def last_level(session: Session) -> bool:
    """No level is beyond the last one."""
    # In float32 the sum of the masses may end below numbers as large as these.
    logits, top = session.normal(60, 6).astype(np.float32), np.float32(1 - 2.0**-24)
    cdf = session.choices["sampling"] == "inverse-cdf"
    u = np.full(60, top) if cdf else session.uniform(0.1, 0.9, 60, 6).astype(np.float32)
    (found,) = session.call("pick", logits, u, 1.0)
    return close(found, np.full(60, 5) if cdf else draw(session, logits, u, 1.0))


def completed(session: Session, known: int, temperature: float) -> bool:
    """Images completed with the grader's logits, from a number of known pixels."""
    order, count, n = session.random.permutation(12), 4, 6
    weights, levels = session.normal(12, 12, count), session.random.integers(0, count, (n, 12))
    uniform, asked = numbers(session, n, 12, levels=count), list[int]()

    def says(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        asked.append(len(arrays["levels"]))
        return {"out": logits(arrays["levels"], weights)}

    request = {"op": "complete", "known": known, "levels": count, "temperature": temperature}
    given = {"levels": levels, "uniform": uniform, "order": order}
    (found,) = session.ask(request, given, says)
    right = levels.copy()
    for k in range(known, 12):
        said = logits(right, weights)[:, order[k]]
        right[:, order[k]] = chosen(said, uniform[:, k], temperature)
    return close(found, right) and len(asked) == 12 - known


def from_nothing(session: Session) -> bool:
    """Whole images, pixel by pixel, eq. (9), by the grader's logits."""
    return completed(session, 0, 1.0)


def from_a_part(session: Session) -> bool:
    """The rest of images, eq. (9), at a fresh temperature."""
    return completed(session, 5, float(session.uniform(0.5, 1.5)))


def chosen(logits: np.ndarray, uniform: np.ndarray, temperature: float) -> np.ndarray:
    """The made-up choice of a level, as in the worker."""
    shift = uniform if uniform.ndim == 1 else uniform.sum(1)
    wave = np.sin(logits.sum(1) + shift + temperature) ** 2
    return np.asarray((100 * wave).astype(int) % logits.shape[1])


def logits(levels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of every pixel from all others, (B, D, L)."""
    mixed = np.einsum("bd,dek->bek", np.asarray(levels, dtype=float), weights)
    return np.asarray(np.sin(mixed) * 2)


TESTS = {
    "masks": (order, degrees, mask),
    "likelihood": (masses, bits, log_prob, sums_to_one, blind),
    "pick": (pick, last_level),
    "complete": (from_nothing, from_a_part),
}
