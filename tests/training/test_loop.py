from __future__ import annotations

import math

import pytest
import torch
from tiny_models import Duel, Fitted, Tiny, TinySettings, tiny_data

from genzoo.data.ranges import to_model
from genzoo.errors import Diverged, InputError
from genzoo.training.loop import Minibatches, Trainer, learning_rate
from genzoo.types import Budget, DataSpec, Recipe, TrainState

CPU = torch.device("cpu")


def run(trainer: Trainer, steps: int) -> None:
    with trainer.clock.running():
        for _ in range(steps):
            trainer.step()


def start(model, budget: str = "20steps", seed: int = 0) -> Trainer:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    data = tiny_data()
    trainer = Trainer(model(data.spec), data.train, Budget.parse(budget), seed)
    trainer.start()
    return trainer


@pytest.mark.parametrize("batch_size", [1, 7, 40, 60])
def test_each_epoch_shows_every_item_once(batch_size: int) -> None:
    data = tiny_data()
    data.train.data[:, 0, 0, 0] = 0
    batches = Minibatches(data.train, data.spec, batch_size, 3, CPU)
    items = {tuple(x.flatten().tolist()): i for i, x in enumerate(batches.whole().x)}
    assert len(items) == 40
    order: list[int] = []
    number = 0
    while len(order) < 80:
        batch = batches[number]
        assert batch.x.shape == (batch_size, 1, 4, 4)
        order += [items[tuple(x.flatten().tolist())] for x in batch.x]
        number += 1
    first, second = order[:40], order[40:80]
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second and first != list(range(40))


def test_minibatches_depend_on_seed_and_number_alone() -> None:
    data = tiny_data()
    batches, again, other = (Minibatches(data.train, data.spec, 16, s, CPU) for s in (3, 3, 4))
    wanted = [batches[i].x for i in range(9)]
    for i in (8, 2, 5):
        assert torch.equal(again[i].x, wanted[i])
    assert not torch.equal(other[0].x, wanted[0])


def test_minibatches_are_in_model_space_with_their_labels() -> None:
    data = tiny_data()
    batch = Minibatches(data.train, data.spec, 16, 0, CPU)[0]
    assert batch.x.min() >= -1 and batch.x.max() <= 1
    bright = (batch.x.flatten(1).mean(1) > 0).long()
    assert torch.equal(batch.cond["label"], bright)
    blind = Minibatches(data.train, data.spec.unconditional(), 16, 0, CPU)[0]
    assert blind.cond == {} and torch.equal(blind.x, batch.x)


def test_points_are_standardized_once() -> None:
    from genzoo.data.dataset import Split

    raw = torch.randn(30, 2) * 3 + 5
    spec = DataSpec((2,), None, location=(5.0, 5.0), scale=(3.0, 3.0))
    whole = Minibatches(Split(raw), spec, 8, 0, CPU).whole()
    assert torch.allclose(whole.x, to_model(raw, spec))


def test_a_phase_trains_its_group_alone_on_a_fresh_minibatch() -> None:
    trainer = start(Duel)
    model = trainer.model
    assert isinstance(model, Duel)
    run(trainer, 1)
    model.seen.clear()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    run(trainer, 1)
    assert [s[:3] for s in model.seen] == [
        ("critic", True, False),
        ("critic", True, False),
        ("generator", False, True),
    ]
    batches = [s[3] for s in model.seen]
    assert not torch.equal(batches[0], batches[1]) and not torch.equal(batches[1], batches[2])
    assert all(not torch.equal(before[n], p) for n, p in model.named_parameters() if "net.0" in n)
    assert trainer.clock.used.images == 2 * 3 * 16
    assert trainer.optimizers["critic"].param_groups[0]["lr"] == pytest.approx(
        2 * trainer.optimizers["generator"].param_groups[0]["lr"]
    )


def test_gradients_are_clipped_and_their_norm_is_logged() -> None:
    trainer = start(Duel)
    run(trainer, 2)
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in trainer.groups["generator"]))
    assert norm <= 0.5 + 1e-4
    entry = trainer.log_entry()
    assert set(entry["grad_norm"]) == {"critic", "generator"}
    assert set(entry["loss"]) == {"critic/total", "generator/total"}
    assert entry["grad_norm"]["generator"] > 0.5
    assert entry["step"] == 2 and entry["images"] == 96


def test_a_single_part_is_not_logged_twice_and_means_are_means() -> None:
    trainer = start(Tiny)
    run(trainer, 3)
    entry = trainer.log_entry()
    assert list(entry["loss"]) == ["main/restore"]
    assert 0.1 < entry["loss"]["main/restore"] < 10
    assert trainer.log_entry()["loss"] == {}


def test_counting_changes_nothing() -> None:
    counted, plain = start(Tiny), start(Tiny)
    plain.clock.used.phase_flops["main"] = 1.0  # so it is not counted
    run(counted, 3)
    run(plain, 3)
    for a, b in zip(
        counted.model.state_dict().values(), plain.model.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b)
    # Two linear layers, forward and backward, without the gradient of the data.
    assert counted.clock.used.flops == 3 * (2 + 2 + 1) * 2 * 16 * 16 * 8


def test_flop_budgets_end_training() -> None:
    trainer = start(Tiny, budget="100000flops")
    with trainer.clock.running():
        while not trainer.done:
            trainer.step()
    assert trainer.clock.used.step == math.ceil(100_000 / (5 * 2 * 16 * 16 * 8))


def test_the_seed_decides_and_the_global_generator_does_not() -> None:
    weights = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        trainer = start(Tiny, seed=seed)
        torch.manual_seed(noise)
        run(trainer, 4)
        weights.append(next(trainer.model.parameters()).detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_restored_trainer_ends_with_the_same_bytes() -> None:
    straight = start(Duel)
    run(straight, 12)
    broken = start(Duel)
    run(broken, 5)
    saved = broken.checkpoint()
    kept = {k: v.clone() for k, v in saved.tensors.items()}
    torch.manual_seed(99)
    again = Trainer(Duel(tiny_data().spec), tiny_data().train, Budget.parse("20steps"), 0)
    again.restore(saved._replace(tensors=kept))
    run(again, 7)
    for (name, a), b in zip(
        straight.averaged_state().items(), again.averaged_state().values(), strict=True
    ):
        assert torch.equal(a, b), name
    mine, theirs = straight.log_entry(), again.log_entry()
    assert {**mine, "seconds": 0} == {**theirs, "seconds": 0}


def test_a_loss_that_is_not_finite_stops_with_phase_and_step() -> None:
    data = tiny_data()
    model = Tiny(data.spec, TinySettings(explode_at=3))
    trainer = Trainer(model, data.train, Budget.parse("20steps"), 0)
    run(trainer, 3)
    trainer.checkpoint()
    run(trainer, 1)
    for look in (trainer.checkpoint, trainer.log_entry):
        with pytest.raises(Diverged, match="loss 'restore' of phase 'main' became nan.*step 4"):
            look()
    with pytest.raises(Diverged, match="weight 'net.0.weight' is not finite"):
        trainer.averaged_state()


def test_fitted_models_have_nothing_to_step() -> None:
    trainer = start(Fitted)
    assert trainer.done
    expected = trainer.batches.whole().x.mean(0)
    assert torch.equal(trainer.averaged_state()["mean"], expected)


def test_the_average_is_what_is_kept() -> None:
    trainer = start(Tiny)
    run(trainer, 10)
    raw = trainer.model.state_dict()
    kept = trainer.averaged_state()
    assert not torch.equal(kept["net.0.weight"], raw["net.0.weight"])
    assert torch.equal(kept["net.1.running_mean"], raw["net.1.running_mean"])
    assert torch.equal(kept["net.0.weight"], trainer.average.weights[0])


def test_learning_rate_warms_up_and_falls_by_half_a_cosine() -> None:
    recipe = Recipe(lr=2.0, warmup=0.1, lr_end=0.1)
    assert learning_rate(recipe, 0.05) == pytest.approx(1.0)
    assert learning_rate(recipe, 0.1) == pytest.approx(2.0)
    assert learning_rate(recipe, 0.55) == pytest.approx(1.1)
    assert learning_rate(recipe, 1.0) == pytest.approx(0.2)
    assert learning_rate(Recipe(lr=1.0, warmup=0.0), 0.0) == 1.0


def test_phases_that_follow_one_another_have_schedules_of_their_own() -> None:
    """The second begins where the first ends. Fails with: one cosine over both, scales mixed up."""
    recipe = Recipe(
        lr=1.0,
        warmup=0.0,
        lr_scale={"prior": 0.5},
        spans={"codes": (0.0, 0.4), "prior": (0.4, 1.0)},
    )
    rates = [learning_rate(recipe, p, "codes") for p in (0.0, 0.2, 0.4, 0.9)]
    assert rates == pytest.approx([1.0, 0.5, 0.0, 0.0])
    rates = [learning_rate(recipe, p, "prior") for p in (0.1, 0.4, 0.7, 1.0)]
    assert rates == pytest.approx([0.5, 0.5, 0.25, 0.0])
    assert learning_rate(recipe, 0.5, "other") == pytest.approx(0.5)


def test_a_single_step_learns_something() -> None:
    trainer = start(Tiny, budget="1steps")
    before = trainer.model.label.weight.detach().clone()
    run(trainer, 1)
    assert (trainer.model.label.weight - before).abs().max() > 1e-3


def test_unusable_recipes_and_phases_are_refused() -> None:
    class Wrong(Tiny):
        def phases(self, state: TrainState) -> tuple[str, ...]:
            return ("mian",)

    with pytest.raises(InputError, match="unknown phase 'mian'; did you mean 'main'"):
        run(start(Wrong), 1)
    data = tiny_data()
    with pytest.raises(InputError, match="batch_size 0"):
        Trainer(Tiny(data.spec, TinySettings(batch_size=0)), data.train, Budget.parse("1s"), 0)
