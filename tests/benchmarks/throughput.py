"""The training loop beside the loops of others, with the same network, batch, threads and data.

    python tests/benchmarks/throughput.py --threads 2

Both sides of a pair train the very same architecture on the same images in memory, and alternate
in rounds within one process, so that both see the same machine. Printed is the ratio of the steps
a second, the median over rounds and the range. Needs packages that genzoo does not: diffusers
0.42, denoising-diffusion-pytorch 2.3.4, pythae 0.1.2 and normflows 1.7.3; a peer that cannot be
imported is left out, with a line that says so.

Where the time of genzoo's own step goes: `--profile`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from genzoo.data import Dataset, open_dataset
from genzoo.data.ranges import to_model
from genzoo.machine import available_cores
from genzoo.model import GenerativeModel
from genzoo.models.ddpm import DDPM, DDPMSettings, T
from genzoo.noise import NoiseSource
from genzoo.training import find_model
from genzoo.training.acceleration import Acceleration
from genzoo.training.loop import Trainer
from genzoo.training.meter import matmul_rate
from genzoo.types import Batch, Budget, DataSpec, Loss, Recipe, SampleOptions, TrainState

BATCH, ROUNDS, ROUND_SECONDS = 64, 7, 3.0
Step = Callable[[], object]
FP32, BEST = Acceleration(), Acceleration("bf16")


class Wrapped(GenerativeModel):
    """Somebody's network under genzoo's loop; its loss is given."""

    def __init__(self, spec: DataSpec, net: nn.Module, loss: Callable[[nn.Module, Tensor], Tensor]):
        super().__init__(spec, None)
        self.net, self._loss = net, loss

    def recipe(self) -> Recipe:
        return Recipe(batch_size=BATCH, lr=1e-4)

    def loss(self, batch: Batch, phase: str, state: TrainState) -> Loss:
        total = self._loss(self.net, batch.x)
        return Loss(total, {"loss": total.detach()})

    def draw(
        self, noise: NoiseSource, cond: Mapping[str, Tensor], options: SampleOptions
    ) -> Tensor:
        return noise.normal(*self.spec.shape)  # only its training is measured


def ours(
    data: Dataset,
    net: nn.Module,
    loss: Callable[[nn.Module, Tensor], Tensor],
    how: Acceleration,
) -> Step:
    """genzoo's step, with clipping, average, schedule and tally."""
    model = Wrapped(data.spec.unconditional(), net, loss)
    trainer = Trainer(model, data.train, Budget.parse("1000000steps"), 0, acceleration=how)
    trainer.start()

    def step() -> None:
        with trainer.clock.running():
            trainer.step()

    return step


# -- the others: a fresh network, the loss that both use, and their own step ------------------


def noise_error(net: nn.Module, x: Tensor, alphas: Tensor, call: Callable[..., Tensor]) -> Tensor:
    """ε-prediction on 28×28 images padded to 32."""
    x = F.pad(x, (2, 2, 2, 2), value=-1.0)
    t = torch.randint(len(alphas), (len(x),))
    noise = torch.randn_like(x)
    a = alphas[t].view(-1, 1, 1, 1)
    return F.mse_loss(call(net, a.sqrt() * x + (1 - a).sqrt() * noise, t), noise)


def diffusers_unet(data: Dataset, width: int = 32) -> tuple[nn.Module, Callable[..., Tensor], Step]:
    """The loop of diffusers' unconditional training example: DataLoader, EMAModel, scheduler."""
    from diffusers import DDPMScheduler, UNet2DModel  # type: ignore[import-not-found]
    from diffusers.optimization import (  # type: ignore[import-not-found]
        get_cosine_schedule_with_warmup,
    )
    from diffusers.training_utils import EMAModel  # type: ignore[import-not-found]

    def build() -> Any:
        torch.manual_seed(0)
        return UNet2DModel(
            sample_size=32,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=(width, 2 * width, 2 * width),
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
            norm_num_groups=8,
        )

    scheduler = DDPMScheduler(num_train_timesteps=1000)
    alphas = scheduler.alphas_cumprod

    def loss(net: nn.Module, x: Tensor) -> Tensor:
        return noise_error(net, x, alphas, lambda n, z, t: n(z, t).sample)

    net = build()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, betas=(0.95, 0.999), eps=1e-8)
    schedule = get_cosine_schedule_with_warmup(optimizer, 500, 1_000_000)
    average = EMAModel(net.parameters(), use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    batches = loader(data)

    def step() -> None:
        x = F.pad(next(batches), (2, 2, 2, 2), value=-1.0)
        noise = torch.randn(x.shape)
        t = torch.randint(0, 1000, (len(x),)).long()
        total = F.mse_loss(net(scheduler.add_noise(x, noise, t), t).sample, noise)
        total.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        average.step(net.parameters())
        total.detach().item()

    return build(), loss, step


def ddp_unet(data: Dataset) -> tuple[nn.Module, Callable[..., Tensor], Step]:
    """denoising-diffusion-pytorch: its U-Net, its loss and the step of its Trainer."""
    from denoising_diffusion_pytorch import (  # type: ignore[import-not-found]
        GaussianDiffusion,
        Unet,
    )
    from ema_pytorch import EMA  # type: ignore[import-not-found]

    def build() -> Any:
        torch.manual_seed(0)
        unet = Unet(dim=16, dim_mults=(1, 2, 4), channels=1, flash_attn=False)
        return GaussianDiffusion(unet, image_size=32, timesteps=1000, auto_normalize=False)

    def loss(net: nn.Module, x: Tensor) -> Tensor:
        out: Tensor = net(F.pad(x, (2, 2, 2, 2), value=-1.0))
        return out

    net = build()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4, betas=(0.9, 0.99))
    average = EMA(net, beta=0.995, update_every=10)
    batches = loader(data)

    def step() -> None:
        total = loss(net, next(batches))
        total.item()
        total.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update()

    return build(), loss, step


def pythae_vae(data: Dataset) -> tuple[nn.Module, Callable[..., Tensor], Step]:
    """pythae's VAE with its own MLPs, and the step of its BaseTrainer."""
    from pythae.models import VAE, VAEConfig  # type: ignore[import-not-found]

    def build() -> Any:
        torch.manual_seed(0)
        return VAE(VAEConfig(input_dim=(1, 28, 28), latent_dim=16))

    def loss(net: nn.Module, x: Tensor) -> Tensor:
        out: Tensor = net({"data": (x + 1) / 2}).loss
        return out

    net = build()
    optimizer = torch.optim.Adam(net.parameters(), 1e-4)
    batches = loader(data)
    seen = [0.0]

    def step() -> None:
        total = loss(net, next(batches))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        seen[0] += total.item()

    return build(), loss, step


def normflows_realnvp(data: Dataset) -> tuple[nn.Module, Callable[..., Tensor], Step]:
    """normflows' RealNVP of masked couplings on flat images, and the step of its examples."""
    import normflows  # type: ignore[import-not-found]

    def build() -> Any:
        torch.manual_seed(0)
        mask = torch.tensor([1.0, 0.0] * 392)
        flows = []
        for i in range(4):
            s, t = (normflows.nets.MLP([784, 256, 784], init_zeros=True) for _ in range(2))
            flows.append(normflows.flows.MaskedAffineFlow(mask if i % 2 else 1 - mask, t, s))
        return normflows.NormalizingFlow(normflows.distributions.DiagGaussian(784), flows)

    def loss(net: nn.Module, x: Tensor) -> Tensor:
        out: Tensor = net.forward_kld(x.flatten(1))
        return out

    net = build()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4, weight_decay=1e-5)
    batches = loader(data)

    def step() -> None:
        optimizer.zero_grad()
        total = loss(net, next(batches))
        if ~(torch.isnan(total) | torch.isinf(total)):
            total.backward()
            optimizer.step()
        total.detach().numpy()

    return build(), loss, step


PEERS = {
    "diffusers": diffusers_unet,
    "denoising-diffusion-pytorch": ddp_unet,
    "pythae": pythae_vae,
    "normflows": normflows_realnvp,
}


def loader(data: Dataset) -> Iterator[Tensor]:
    """Shuffled batches of model-space images, as a DataLoader of tensors gives them."""
    images = to_model(data.train.data, data.spec)
    source = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(images), batch_size=BATCH, shuffle=True, drop_last=True
    )
    while True:
        for (x,) in source:
            yield x


# -- measuring ----------------------------------------------------------------------------------


def alternating(sides: Mapping[str, Step]) -> dict[str, list[float]]:
    """Steps a second of each side in each round."""
    for step in sides.values():
        for _ in range(3):
            step()
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, step in sides.items():
            begun, count = time.perf_counter(), 0
            while time.perf_counter() - begun < ROUND_SECONDS:
                step()
                count += 1
            rates[name].append(count / (time.perf_counter() - begun))
    return rates


def spread(values: list[float]) -> str:
    """``1.31 (1.27 to 1.36)``."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def against_peers(data: Dataset, names: list[str]) -> None:
    """A row a peer: how many times as many steps a second."""
    print("| peer | its steps/s | genzoo, fp32: ratio | genzoo, as it would choose: ratio |")
    print("|---|---|---|---|")
    for name in names:
        try:
            net, loss, theirs = PEERS[name](data)
            again, _, _ = PEERS[name](data)
        except ImportError as error:
            print(f"| {name} | not installed: {error} | | |", flush=True)
            continue
        sides = {
            "theirs": theirs,
            "fp32": ours(data, net, loss, FP32),
            "best": ours(data, again, loss, BEST),
        }
        rates = alternating(sides)
        ratios = {
            key: spread([a / b for a, b in zip(rates[key], rates["theirs"], strict=True)])
            for key in ("fp32", "best")
        }
        print(
            f"| {name} | {spread(rates['theirs'])} | {ratios['fp32']} | {ratios['best']} |",
            flush=True,
        )


def sampling() -> None:
    """50 steps of DDIM with the very same U-Net, 64 images: diffusers' pipeline and genzoo."""
    try:
        from diffusers import DDIMPipeline, DDIMScheduler
    except ImportError as error:
        print(f"diffusers' pipeline is not installed: {error}")
        return
    net, _, _ = diffusers_unet(open_dataset("digits"), width=8)
    net.eval()
    pipeline = DDIMPipeline(net, DDIMScheduler(num_train_timesteps=1000))
    pipeline.set_progress_bar_config(disable=True)

    class Shared(DDPM):
        def predict(self, x: Tensor, time: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
            out: Tensor = net(x, (time + 1) * T / 2 - 1).sample
            return out

    model = Shared(DataSpec((1, 32, 32), levels=256), DDPMSettings(schedule="linear"))
    options = SampleOptions(steps=50, sampler="ddim")
    rates = alternating(
        {
            "theirs": lambda: pipeline(batch_size=64, num_inference_steps=50, output_type="np"),
            "ours": lambda: model.sample(64, options=options),
        }
    )
    ratios = [a / b for a, b in zip(rates["ours"], rates["theirs"], strict=True)]
    print(f"\nsampling, DDIM with 50 steps: {spread(ratios)} times as many samples a second")


def own_steps(data: Dataset, models: list[str], profile: bool) -> None:
    """A row a model: the share of the step beside the gradient, and the use of the machine."""
    print("\n| model | precision | step (ms) | loop beside loss and gradients | utilization |")
    print("|---|---|---|---|---|")
    for name in models:
        for how in (FP32, BEST):
            source = find_model(name)
            torch.manual_seed(0)
            model = source.build(data.spec, source.settings({}, data.spec, "auto"))
            budget = Budget.parse("1000000steps")
            trainer = Trainer(model, data.train, budget, 0, acceleration=how)
            trainer.start()
            inside = [0.0]
            descend = trainer._descend

            def timed(*given: Any, descend: Any = descend, inside: Any = inside) -> Loss:
                begun = time.perf_counter()
                out: Loss = descend(*given)
                inside[0] += time.perf_counter() - begun
                return out

            trainer._descend = timed  # type: ignore[method-assign]
            seconds, n = 0.0, 0
            with trainer.clock.running():
                for _ in range(3):
                    trainer.step()
                inside[0] = 0.0
                begun = time.perf_counter()
                while seconds < 3 * ROUND_SECONDS:
                    trainer.step()
                    n, seconds = n + 1, time.perf_counter() - begun
            flops = trainer.clock.used.flops / trainer.clock.used.step * n
            rate = matmul_rate(torch.device("cpu"), how, 60.0)
            print(
                f"| {name} | {how.precision} | {seconds / n * 1e3:.1f} | "
                f"{1 - inside[0] / seconds:.1%} | {flops / seconds / rate:.1%} |",
                flush=True,
            )
            if profile:
                show_profile(trainer)


def show_profile(trainer: Trainer) -> None:
    """The operations that take the most time of their own."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        with trainer.clock.running():
            for _ in range(5):
                trainer.step()
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=15))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--peers", nargs="*", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--models", nargs="*", default=["diffusion", "vae", "flow", "gan"])
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    data = open_dataset(given.data, given.data_root)
    print(f"{given.data}, batches of {BATCH}, {given.threads} threads\n")
    against_peers(data, given.peers)
    if "diffusers" in given.peers:
        sampling()
    own_steps(data, given.models, given.profile)


if __name__ == "__main__":
    main()
