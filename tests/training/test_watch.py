"""What is said of losses and gradients while they are watched."""

from __future__ import annotations

from typing import Any

from genzoo.training.watch import DEAD_LINES, FEWEST, Watch


def line(step: int, loss: float = 1.0, critic: float = 1.0) -> dict[str, Any]:
    return {
        "step": step,
        "loss": {"main/total": loss},
        "grad_norm": {"main": 1.0, "critic": critic},
    }


def noisy(step: int) -> float:
    return 1.0 + 0.1 * ((step * 7) % 5 - 2)


def test_a_spike_is_said_once_and_noise_is_not() -> None:
    """A slow rise is none. Fails with: a mean in the place of the median, no deviation."""
    watch = Watch()
    quiet = [note for step in range(30) for note in watch.look(line(step, noisy(step)))]
    assert quiet == []
    (note,) = watch.look(line(30, 9.0))
    assert "loss spike at step 30" in note and "'main/total' is 9" in note
    assert watch.look(line(31, 9.0)) == []
    later = [note for step in range(32, 60) for note in watch.look(line(step, noisy(step)))]
    assert later == [] and len(watch.look(line(60, 9.0))) == 1
    rising = Watch()
    assert [n for step in range(60) for n in rising.look(line(step, 1 + 0.02 * step))] == []


def test_negative_losses_spike_too() -> None:
    """Densities have losses below 0. Fails with: ratios."""
    watch = Watch()
    for step in range(FEWEST):
        assert watch.look(line(step, -2.0 + 0.01 * noisy(step))) == []
    assert len(watch.look(line(FEWEST, 1.0))) == 1


def test_a_dead_critic_is_named_after_several_lines() -> None:
    """And not where it comes back. Fails with: the first small gradient, any phase's."""
    watch = Watch()
    for step in range(FEWEST):
        assert watch.look(line(step)) == []
    assert watch.look(line(FEWEST, critic=1e-6)) == [] and watch.look(line(FEWEST + 1)) == []
    found = [watch.look(line(100 + i, critic=1e-6)) for i in range(DEAD_LINES + 30)]
    said = [i for i, notes in enumerate(found) if notes]
    assert said == [DEAD_LINES - 1] and "phase 'critic' is dead" in found[said[0]][0]
