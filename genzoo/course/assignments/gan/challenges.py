"""An adversarial network: linear players with known slopes, and fresh data. NumPy alone."""

from __future__ import annotations

import numpy as np

from genzoo.course.grading.judge import (
    Session,
    close,
    points_of_a_mixture,
    slopes,
    trained_on_points,
)

LATENTS, GAMMA, WEIGHT = 8, 1.0, 0.1


def softplus(x: np.ndarray) -> np.ndarray:
    """log(1 + e^x)."""
    return np.asarray(np.logaddexp(0, x))


def losses(objective: str, real: np.ndarray, fake: np.ndarray) -> tuple[float, float]:
    """The critic's and the generator's, eqs. (1) and (2)."""
    if objective == "non-saturating":
        critic, generator = softplus(-real).mean() + softplus(fake).mean(), softplus(-fake).mean()
    elif objective == "hinge":
        critic = np.maximum(0, 1 - real).mean() + np.maximum(0, 1 + fake).mean()
        generator = -fake.mean()
    else:
        critic, generator = softplus(fake - real).mean(), softplus(real - fake).mean()
    return float(critic), float(generator)


def critic_loss(session: Session) -> bool:
    """The critic's loss, eq. (1)."""
    real, fake = 2 * session.normal(50), 2 * session.normal(50)
    right = losses(session.choices["objective"], real, fake)[0]
    return close(session.call("critic_loss", real, fake)[0], right)


def generator_loss(session: Session) -> bool:
    """The generator's loss, eq. (2)."""
    real, fake = 2 * session.normal(50), 2 * session.normal(50)
    right = losses(session.choices["objective"], real, fake)[1]
    return close(session.call("generator_loss", real, fake)[0], right)


def score(given: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """A critic of one hidden layer, (B, 2) to (B,)."""
    return np.asarray(np.tanh(x @ given["a"] + given["b"]) @ given["c"])


def squared(given: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Its squared slopes, by finite differences."""
    return np.asarray((slopes(lambda at: score(given, at), x) ** 2).sum(1))


def squared_slopes(session: Session) -> bool:
    """Squared slopes of a fresh critic, eq. (3), and how they change with its weights."""
    critic = {"a": session.normal(2, 5), "b": session.normal(5), "c": session.normal(5)}
    x, h = session.normal(30, 2), 1e-4  # of the weight whose gradient is asked for
    found = session.ask({"op": "slopes"}, {**critic, "x": x})
    moved = [{**critic, "c": critic["c"] + s * h * np.eye(5)[2]} for s in (1, -1)]
    more, less = (squared(at, x).mean() for at in moved)
    right = [squared(critic, x), np.asarray((more - less) / (2 * h))]
    return len(found) == 2 and all(map(close, found, right, (1e-4, 1e-3)))


def penalty(session: Session) -> bool:
    """The penalty, eq. (4), where the slopes are known."""
    real, fake, u = session.normal(30, 2), session.normal(30, 2), session.uniform(0, 1, 30, 1)
    (found,) = session.ask({"op": "penalty"}, {"real": real, "fake": fake, "u": u})
    if session.choices["penalty"] == "r1":
        return close(found, GAMMA / 2 * (real**2).sum(1).mean(), 1e-4)
    length = np.sqrt(((u * real + (1 - u) * fake) ** 2).sum(1))
    return close(found, WEIGHT * ((length - 1) ** 2).mean(), 1e-4)


def taken(session: Session, phase: str) -> bool:
    """Loss and gradients of a turn."""
    real, z, u = session.normal(40, 2), session.normal(40, LATENTS), session.uniform(0, 1, 40, 1)
    critic, generator = session.normal(2), session.normal(LATENTS, 2)
    given = {"real": real, "z": z, "u": u, "critic": critic, "generator": generator}
    found = session.ask({"op": "turn", "phase": phase}, given)
    right = turn(phase, real, z, u, critic, generator)
    return len(found) == 3 and all(map(close, found, right, [1e-4] * 3))


def critics_turn(session: Session) -> bool:
    """The critic's turn: its loss, and gradients to the critic alone."""
    return taken(session, "critic")


def generators_turn(session: Session) -> bool:
    """The generator's turn: its loss, and gradients through the critic."""
    return taken(session, "generator")


def groups(session: Session) -> bool:
    """Each player has its own parameters, all of them."""
    (found,) = session.ask({"op": "groups"})
    return close(found, np.eye(2))


def turn(
    phase: str, real: np.ndarray, z: np.ndarray, u: np.ndarray, d: np.ndarray, g: np.ndarray
) -> list[np.ndarray]:
    """Total, and its gradients to a linear critic d and a linear generator g, with known losses.

    The critic's loss is 2 mean D(G) - mean D(x), its penalty mean(u) |d|² + mean of x and G(z);
    the generator's loss is 3 mean D(x) - mean D(G).
    """
    fake = z @ g
    if phase == "critic":
        total = 2 * (fake @ d).mean() - (real @ d).mean() + u.mean() * (d @ d)
        total = total + real.mean() + fake.mean()
        return [total, 2 * fake.mean(0) - real.mean(0) + 2 * u.mean() * d, np.zeros_like(g)]
    total = 3 * (real @ d).mean() - (fake @ d).mean()
    return [total, 3 * real.mean(0) - fake.mean(0), -np.outer(z.mean(0), d)]


def drawn(session: Session) -> bool:
    """Points come from the given noise."""
    noise, weights = session.normal(20, LATENTS), session.normal(LATENTS, 2)
    (found,) = session.ask({"op": "drawn"}, {"normal": noise, "generator": weights})
    return close(found, noise @ weights)


def trained(session: Session) -> float:
    """Trained on a mixture that nobody has seen before, its samples look like it."""
    return trained_on_points(session)


TESTS = {
    "game": (critic_loss, generator_loss),
    "slopes": (squared_slopes, penalty),
    "turns": (critics_turn, generators_turn, groups),
    "samples": (drawn, trained),
}
SAMPLES = points_of_a_mixture
"""What the test of samples and the leaderboard train on and judge by."""
