"""Precision, layout, compilation, and minibatches in parts."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping

import pytest
import torch
from tiny_models import Duel, Tiny, TinySettings, tiny_data
from torch import Tensor, nn

from genzoo.data import open_dataset
from genzoo.errors import InputError
from genzoo.model import GenerativeModel, group_of
from genzoo.nets.transformer import attend
from genzoo.registry import CONTROLS, MODELS
from genzoo.training import acceleration, find_model
from genzoo.training.acceleration import Acceleration, accelerate
from genzoo.training.loop import Trainer
from genzoo.types import Batch, Budget, DataSpec, Loss, TrainState

CPU = torch.device("cpu")
IMAGES, POINTS = DataSpec((1, 8, 8), levels=17), DataSpec((2,), levels=None)
TRAINED = [name for name in MODELS if name not in CONTROLS]
BUDGET = Budget.parse("20steps")


# -- what is chosen ---------------------------------------------------------------------------


def test_images_get_bfloat16_only_where_the_cpu_has_units_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for has, expected in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(acceleration, "cpu_multiplies_bf16", lambda has=has: has)
        assert accelerate(CPU, IMAGES, BUDGET).precision == expected
        assert accelerate(CPU, POINTS, BUDGET).precision == "fp32"
        assert accelerate(CPU, IMAGES, BUDGET, precision="fp32") == Acceleration()
        assert accelerate(CPU, POINTS, BUDGET, precision="bf16").precision == "bf16"


def test_nothing_is_compiled_or_laid_out_on_a_cpu_unless_asked_for() -> None:
    chosen = accelerate(CPU, IMAGES, Budget.parse("10h"), precision="fp32")
    assert not chosen.compiled and not chosen.channels_last
    asked = accelerate(CPU, IMAGES, BUDGET, compiled=True, channels_last=True)
    assert asked.compiled and asked.channels_last


def test_a_gpu_compiles_what_trains_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    gpu = torch.device("cuda")
    long, short = Budget.parse("1h"), Budget.parse("60s")
    assert accelerate(gpu, IMAGES, long) == Acceleration("bf16", True, True)
    assert accelerate(gpu, IMAGES, short) == Acceleration("bf16", False, True)
    assert accelerate(gpu, POINTS, long) == Acceleration("fp32", False, False)
    assert accelerate(gpu, IMAGES, short, precision="tf32") == Acceleration("tf32")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert accelerate(gpu, IMAGES, short) == Acceleration("fp32")
    with pytest.raises(InputError, match="--precision tf32: cuda has none"):
        accelerate(gpu, IMAGES, short, precision="tf32")


def test_unknown_precisions_are_refused() -> None:
    with pytest.raises(InputError, match="unknown precision 'bf61'; did you mean 'bf16'"):
        accelerate(CPU, IMAGES, BUDGET, precision="bf61")


def test_torchs_own_settings_are_restored() -> None:
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    with Acceleration("tf32").computing(CPU):
        assert torch.get_float32_matmul_precision() == "high"
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == before
    with Acceleration("bf16").computing(CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


# -- the same losses and gradients --------------------------------------------------------------


def gradient(trainer: Trainer, phase: str, state: TrainState) -> tuple[Loss, Tensor]:
    trainer._train_only(phase)
    trainer.model.zero_grad(set_to_none=True)
    torch.manual_seed(1)
    loss = trainer._descend(trainer.batches[0], phase, state)
    group = trainer.groups[group_of(phase)]
    grads = [p.grad.flatten() for p in group if p.grad is not None]
    return loss, torch.cat(grads).double()


def trainer_of(name: str, steps: int, how: Acceleration) -> Trainer:
    """On digits, after some steps, so that layers that begin with zeros have opened."""
    data = open_dataset("digits")
    source = find_model(name)
    torch.manual_seed(0)
    model = source.build(data.spec, source.settings({}, data.spec, "tiny"))
    trainer = Trainer(model, data.train, Budget.parse("1000steps"), 0, acceleration=how)
    trainer.start()
    with trainer.clock.running():
        for _ in range(steps):
            trainer.step()
    return trainer


@pytest.mark.parametrize("name", TRAINED)
def test_bfloat16_leaves_losses_in_float32_and_gradients_where_they_point(name: str) -> None:
    """Fails with: a density from rounded logits, attention's scores in half of their bits."""
    trainer = trainer_of(name, 3, Acceleration())
    state = trainer.clock.state
    for phase in dict.fromkeys(trainer._phases(state)):
        trainer.acceleration = Acceleration()
        exact, expected = gradient(trainer, phase, state)
        trainer.acceleration = Acceleration("bf16")
        rounded, found = gradient(trainer, phase, state)
        assert rounded.total.dtype == torch.float32
        assert rounded.total.item() == pytest.approx(exact.total.item(), rel=0.02, abs=0.01)
        assert float(expected @ found / expected.norm() / found.norm()) > 0.99
        assert all(p.dtype == torch.float32 for p in trainer.model.parameters())


def test_attention_on_the_cpu_is_in_float32() -> None:
    q, k, v = torch.randn(3, 2, 4, 9, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = attend(q, k, v, causal=True, dropout=0.0)
    assert mixed.dtype == torch.float32
    scores = (q.double() @ k.double().transpose(2, 3) / 8**0.5).masked_fill(
        torch.ones(9, 9).triu(1).bool(), -torch.inf
    )
    assert torch.allclose(mixed.double(), scores.softmax(3) @ v.double(), atol=1e-5)


# -- compiled ----------------------------------------------------------------------------------


def accelerated(model: type[GenerativeModel], how: Acceleration, n: int = 4) -> Trainer:
    torch.manual_seed(0)
    data = tiny_data()
    trainer = Trainer(model(data.spec), data.train, BUDGET, 0, acceleration=how)
    trainer.start()
    with trainer.clock.running():
        for _ in range(n):
            trainer.step()
    return trainer


def test_what_cannot_be_compiled_trains_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("a gradient of a gradient\nis beyond this compiler")

    def compile_in_place(self: nn.Module, **_: object) -> None:
        self._compiled_call_impl = refuse

    monkeypatch.setattr(nn.Module, "compile", compile_in_place)
    monkeypatch.setattr(torch.compiler, "set_stance", lambda stance: contextlib.nullcontext())
    whole = accelerated(Frugal, Acceleration())
    monkeypatch.setattr(Trainer, "_count", lambda self, phase, state: 0.0)  # before compiling
    tried = accelerated(Frugal, Acceleration(compiled=True))
    assert not tried.acceleration.compiled
    assert len(tried.notes) == 1 and "cannot be compiled, going on without" in tried.notes[0]
    assert "\n" not in tried.notes[0]
    for mine, theirs in zip(whole.model.parameters(), tried.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for the CPU needs g++")
@pytest.mark.parametrize("name", ["diffusion", "vae", "gan"])
def test_compiled_training_is_the_same_training(name: str) -> None:
    from torch._inductor import config

    # Compiled code draws by a generator of its own; here it shall draw as the plain code does.
    with config.patch(fallback_random=True):  # type: ignore[no-untyped-call]
        compiled = trainer_of(name, 4, Acceleration(compiled=True))
    plain = trainer_of(name, 4, Acceleration())
    same = {**plain.clock.used.phase_flops}
    assert compiled.clock.used.phase_flops == same  # counted as if not compiled
    assert list(compiled.model.state_dict()) == list(plain.model.state_dict())
    # Adam makes whole steps of gradients that are nothing but rounding, so the way is compared.
    before, mine, theirs = (
        torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
        for trainer in (trainer_of(name, 0, Acceleration()), plain, compiled)
    )
    assert (theirs - mine).norm() < 0.05 * (mine - before).norm()
    if compiled.acceleration.compiled:
        assert compiled.prepare_seconds > plain.prepare_seconds
    else:  # a gradient of a gradient is beyond the compiler
        assert name == "gan" and "cannot be compiled" in compiled.notes[0]


# -- in parts ------------------------------------------------------------------------------------


class Greedy(Tiny):
    """Needs more memory than there is for more than six items, and no randomness."""

    def __init__(self, spec: DataSpec, settings: TinySettings | None = None) -> None:
        super().__init__(spec, settings)
        self.net = nn.Sequential(nn.Linear(spec.dim, 8), nn.Linear(8, spec.dim))

    def loss(self, batch: Batch, phase: str, state: TrainState) -> Loss:
        if len(batch.x) > 6:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.mean_error(batch.x.flatten(1), batch.cond)

    def mean_error(self, x: Tensor, cond: Mapping[str, Tensor]) -> Loss:
        label = cond.get("label", torch.zeros(len(x), dtype=torch.int64))
        total = (self.net(x).sum(1) + self.label(label).sum(1) - 1).square().mean()
        return Loss(total, {"error": total.detach()})


class Frugal(Greedy):
    def loss(self, batch: Batch, phase: str, state: TrainState) -> Loss:
        return self.mean_error(batch.x.flatten(1), batch.cond)


def test_a_minibatch_that_does_not_fit_goes_in_parts_with_the_same_gradient() -> None:
    """16 items: parts of 8 are too many, of 4 are not. Fails with: a sum for the mean of parts."""
    whole, parts = accelerated(Frugal, Acceleration()), accelerated(Greedy, Acceleration())
    assert (whole.parts, parts.parts) == (1, 4)
    assert len(parts.notes) == 2 and "in 4 parts" in parts.notes[1]
    assert parts.clock.used.phase_flops == whole.clock.used.phase_flops
    for mine, theirs in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)
    mean = parts.log_entry()["loss"]["main/error"]
    assert mean == pytest.approx(whole.log_entry()["loss"]["main/error"], rel=1e-4)
    again = accelerated(Greedy, Acceleration(), 0)
    again.restore(parts.checkpoint())
    assert again.parts == 4


def test_what_does_not_fit_at_all_is_not_tried_for_ever() -> None:
    class Endless(Duel):
        def loss(self, batch: Batch, phase: str, state: TrainState) -> Loss:
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        accelerated(Endless, Acceleration())
