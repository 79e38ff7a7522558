"""Models of a few weights, each showing one thing that the training loop must handle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from genzoo.data.dataset import Dataset, Split, fingerprint
from genzoo.model import GenerativeModel
from genzoo.noise import NoiseSource
from genzoo.types import Batch, DataSpec, Loss, Recipe, SampleOptions, TrainState


@dataclass(frozen=True)
class TinySettings:
    batch_size: int = 16
    lr: float = 0.02
    ema: float = 0.1
    explode_at: int | None = None
    note: str = "-"


class Tiny(GenerativeModel):
    """A noisy autoencoder of flat data with batch norm, dropout and labels."""

    Settings = TinySettings
    mean: Tensor

    def __init__(self, spec: DataSpec, settings: TinySettings | None = None) -> None:
        super().__init__(spec, settings)
        self.net = nn.Sequential(
            nn.Linear(spec.dim, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.Linear(8, spec.dim)
        )
        self.label = nn.Embedding(spec.num_classes + 1, spec.dim)
        self.register_buffer("mean", torch.zeros(spec.dim))

    def recipe(self) -> Recipe:
        s = self.settings
        return Recipe(batch_size=s.batch_size, lr=s.lr, ema=s.ema, warmup=0.1)

    def on_fit_start(self, data: Batch, generator: torch.Generator) -> None:
        self.mean.copy_(data.x.flatten(1).mean(0))

    def loss(self, batch: Batch, phase: str, state: TrainState) -> Loss:
        x = batch.x.flatten(1)
        total = (self._restore(x + torch.randn_like(x), batch.cond) - x).square().mean()
        if state.step == self.settings.explode_at:
            total = total * torch.nan
        return Loss(total, {"restore": total.detach()})

    def draw(
        self, noise: NoiseSource, cond: Mapping[str, Tensor], options: SampleOptions
    ) -> Tensor:
        x = noise.normal(self.spec.dim)
        for _ in range(options.steps or 3):
            x = self._restore(x, cond)
        return x.view(-1, *self.spec.shape)

    def _restore(self, x: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        label = cond.get("label", torch.full((len(x),), self.spec.num_classes, device=x.device))
        return self.net(x) + self.label(label) + self.mean


class Duel(Tiny):
    """Two groups, the first of which is trained twice a step; remembers what it saw."""

    def __init__(self, spec: DataSpec, settings: TinySettings | None = None) -> None:
        super().__init__(spec, settings)
        self.critic = nn.Linear(spec.dim, 1)
        self.seen: list[tuple[str, bool, bool, Tensor]] = []

    def recipe(self) -> Recipe:
        return Recipe(batch_size=16, lr=0.01, lr_scale={"critic": 2.0}, grad_clip=0.5, ema=0.1)

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        own = list(self.critic.parameters())
        return {
            "critic": own,
            "generator": [*self.net.parameters(), *self.label.parameters()],
        }

    def phases(self, state: TrainState) -> tuple[str, ...]:
        return ("critic", "critic", "generator")

    def loss(self, batch: Batch, phase: str, state: TrainState) -> Loss:
        frozen = (self.critic.weight.requires_grad, self.label.weight.requires_grad)
        self.seen.append((phase, *frozen, batch.x.clone()))
        x = batch.x.flatten(1).requires_grad_()
        score = self.critic(self._restore(x, batch.cond)).sum()
        # A gradient penalty, which needs a graph of gradients.
        (slope,) = torch.autograd.grad(score, x, create_graph=True)
        return Loss(score + slope.square().sum(), {})


class Broken(Tiny):
    """Has a bug in its fourth step."""

    def on_step_end(self, state: TrainState) -> None:
        if state.step == 4:
            raise ZeroDivisionError("my mistake")


class Fitted(GenerativeModel):
    """Learns in one pass and has nothing to step."""

    mean: Tensor

    def __init__(self, spec: DataSpec, settings: None = None) -> None:
        super().__init__(spec, settings)
        self.register_buffer("mean", torch.zeros(spec.shape))

    def on_fit_start(self, data: Batch, generator: torch.Generator) -> None:
        self.mean.copy_(data.x.mean(0))

    def loss(self, batch: Batch, phase: str, state: TrainState) -> Loss:
        raise AssertionError("never asked")

    def draw(
        self, noise: NoiseSource, cond: Mapping[str, Tensor], options: SampleOptions
    ) -> Tensor:
        return self.mean + 0.1 * noise.normal(*self.spec.shape)


def tiny_data(n: int = 40, labelled: bool = True) -> Dataset:
    """Random 4x4 images of 5 levels in 2 classes."""
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % 2
    data = torch.randint(0, 3, (n, 1, 4, 4), generator=random) + 2 * labels.view(-1, 1, 1, 1)
    split = Split(data.byte(), labels if labelled else None)
    spec = DataSpec((1, 4, 4), 5, {"label": 2} if labelled else {}, (0.5, 0.5) if labelled else ())
    names = ("dark", "bright") if labelled else ()
    return Dataset("tiny", spec, split, split, None, names, fingerprint(spec, split))
