"""Public implementations on the same data, for the same time, scored by the same evaluator.

    python tests/benchmarks/peers.py --data fashion-mnist --budget 300 --threads 2

Needs packages that genzoo does not: pythae==0.1.2, zuko==1.6.0, normflows==1.7.3, torchgan==0.1.0
and denoising-diffusion-pytorch==2.3.4, with what these depend on; a peer that cannot be imported is
left out. Each gets the training images as [0, 1] floats in memory, batches of 128 (its own losses,
Adam at the rate that its examples use) and `--budget` seconds of training. Samples go to
`<out>/<peer>.npz`, whose folder `genzoo evaluate` scores. A peer that has samples is not repeated.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

import genzoo
from genzoo.data import open_dataset

BATCH = 128
# What a peer makes: a step of training on a batch, and a way to n samples in [0, 1].
Made = tuple[Callable[[Tensor], None], Callable[[int], Tensor]]


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step down."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def pythae_vae(side: int) -> Made:
    """The MLP VAE that pythae builds where no network is given."""
    from pythae.models import VAE, VAEConfig  # type: ignore[import-not-found]

    net = VAE(VAEConfig(input_dim=(1, side, side), latent_dim=16))
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)

    def step(x: Tensor) -> None:
        descend(optimizer, net({"data": x}).loss)

    def draw(n: int) -> Tensor:
        out: Tensor = net.decoder(torch.randn(n, 16))["reconstruction"]
        return out

    return step, draw


def torchgan_dcgan(side: int) -> Made:
    """torchgan's DCGAN networks on images of 32 pixels, and its minimax losses."""
    from torchgan.losses import (  # type: ignore[import-not-found]
        minimax_discriminator_loss,
        minimax_generator_loss,
    )
    from torchgan.models import (  # type: ignore[import-not-found]
        DCGANDiscriminator,
        DCGANGenerator,
    )

    generator = DCGANGenerator(100, 32, 1, 32)
    critic = DCGANDiscriminator(32, 1, 32)
    of_g, of_d = (
        torch.optim.Adam(net.parameters(), 2e-4, betas=(0.5, 0.999)) for net in (generator, critic)
    )
    pad = (32 - side) // 2

    def step(x: Tensor) -> None:
        x = F.pad(2 * x - 1, [pad] * 4, value=-1.0)
        fake = generator(torch.randn(len(x), 100))
        descend(of_d, minimax_discriminator_loss(critic(x), critic(fake.detach())))
        descend(of_g, minimax_generator_loss(critic(fake)))

    def draw(n: int) -> Tensor:
        x = generator.eval()(torch.randn(n, 100))
        cut: Tensor = x[:, :, pad : pad + side, pad : pad + side]
        return (cut + 1) / 2

    return step, draw


def zuko_realnvp(side: int) -> Made:
    """zuko's RealNVP on logits of dequantized images."""
    import zuko  # type: ignore[import-not-found]

    flow = zuko.flows.RealNVP(side**2, transforms=4, hidden_features=(512, 512))
    optimizer = torch.optim.Adam(flow.parameters(), 1e-3)

    def step(x: Tensor) -> None:
        spread = (255 * x + torch.rand_like(x)) / 256
        logits = torch.logit(0.05 + 0.9 * spread).flatten(1)
        descend(optimizer, -flow().log_prob(logits).mean())

    def draw(n: int) -> Tensor:
        logits = flow().sample((n,)).view(n, 1, side, side)
        out: Tensor = (torch.sigmoid(logits) - 0.05) / 0.9
        return out

    return step, draw


def lucidrains_diffusion(side: int) -> Made:
    """Gaussian diffusion of denoising-diffusion-pytorch, sampled in 25 DDIM steps."""
    from denoising_diffusion_pytorch import (  # type: ignore[import-not-found]
        GaussianDiffusion,
        Unet,
    )

    net = Unet(dim=32, dim_mults=(1, 2, 4), channels=1)
    diffusion = GaussianDiffusion(net, image_size=side, sampling_timesteps=25)
    optimizer = torch.optim.Adam(diffusion.parameters(), 8e-5, betas=(0.9, 0.99))

    def step(x: Tensor) -> None:
        descend(optimizer, diffusion(x))

    def draw(n: int) -> Tensor:
        out: Tensor = diffusion.eval().sample(batch_size=n)
        return out

    return step, draw


def normflows_glow(side: int) -> Made:
    """normflows' multiscale Glow."""
    import normflows as nf  # type: ignore[import-not-found]

    merges, flows, bases = [], [], []
    for i in range(2):
        channels, size = 2 ** (3 - i), side // 2 ** (2 - i)
        blocks = [
            nf.flows.GlowBlock(channels, 64, split_mode="channel", scale=True) for _ in range(8)
        ]
        flows.append([*blocks, nf.flows.Squeeze()])
        if i > 0:
            merges.append(nf.flows.Merge())
        inner = (channels // 2, size, size) if i > 0 else (channels, size, size)
        bases.append(nf.distributions.DiagGaussian(inner))
    net = nf.MultiscaleFlow(bases, flows, merges)
    optimizer = torch.optim.Adamax(net.parameters(), 1e-3, weight_decay=1e-5)

    def step(x: Tensor) -> None:
        loss = net.forward_kld((255 * x + torch.rand_like(x)) / 256 - 0.5)
        if torch.isfinite(loss):
            descend(optimizer, loss)

    def draw(n: int) -> Tensor:
        x, _ = net.sample(n)
        out: Tensor = x + 0.5
        return out

    return step, draw


PEERS: dict[str, Callable[[int], Made]] = {
    "pythae-vae": pythae_vae,
    "torchgan-dcgan": torchgan_dcgan,
    "zuko-realnvp": zuko_realnvp,
    "normflows-glow": normflows_glow,
    "lucidrains-diffusion": lucidrains_diffusion,
}


def samples_of(name: str, images: Tensor, given: argparse.Namespace) -> tuple[Tensor, int]:
    """Levels (n, 1, H, W) uint8 after the budget, and how many images it trained on."""
    torch.manual_seed(given.seed)
    step, draw = PEERS[name](images.shape[-1])
    seen, spent, order = 0, 0.0, torch.randperm(len(images))
    while spent < given.budget:
        start = seen % (len(images) - BATCH)
        begun = time.perf_counter()
        step(images[order[start : start + BATCH]].float() / 255)
        spent += time.perf_counter() - begun
        seen += BATCH
    with torch.no_grad():
        parts = [draw(100) for _ in range(given.samples // 100)]
    x = torch.cat(parts).nan_to_num(0.0)
    return (255 * x).round().clamp(0, 255).byte(), seen


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--peers", nargs="+", default=list(PEERS), choices=list(PEERS))
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--budget", type=float, default=300, help="seconds of training")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/peers"))
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    dataset = open_dataset(given.data, given.data_root)
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.peers:
        path = given.out / f"{name}.npz"
        if not path.exists():
            try:
                levels, seen = samples_of(name, dataset.train.data, given)
            except ImportError as error:
                print(f"{name}: left out, {error}", flush=True)
                continue
            print(f"{name}: {seen:,} images seen", flush=True)
            np.savez(path, images=levels.permute(0, 2, 3, 1).numpy())
        print(f"| `{name}` | {' | '.join(scores_of(path, dataset))} |", flush=True)


def scores_of(path: Path, dataset: Any) -> list[str]:
    """FD, 1-NN and recall, as the families' table has them."""
    metrics = genzoo.evaluate(path, data=dataset).metrics
    return [f"{metrics[m].value:.4g}" for m in ("fd", "two_sample_1nn", "recall")]


if __name__ == "__main__":
    main()
