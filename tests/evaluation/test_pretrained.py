"""Pretrained spaces: torch-fidelity's numbers, from files of known content and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from made_views import uint8
from torch import Tensor, nn

from genzoo import compat
from genzoo.data import Dataset
from genzoo.errors import InputError, MachineError
from genzoo.evaluation import extractors
from genzoo.evaluation.extractors import clip, dinov2, inception, pretrained
from genzoo.evaluation.features import open_extractor
from genzoo.progress import Silent

CPU = torch.device("cpu")
SILENT = Silent()


@pytest.fixture(scope="module")
def small_inception() -> dict[str, Tensor]:
    """Random weights with the names and shapes of the published ones."""
    compat.install()
    from torch_fidelity import feature_extractor_inceptionv3 as module

    class Shapes(module.FeatureExtractorInceptionV3):  # type: ignore[misc]
        def load_state_dict(self, state: Any, *args: Any, **kwargs: Any) -> Any:
            return None

    with torch.random.fork_rng(devices=[]), inception._handing_out(module, {}):
        torch.manual_seed(0)
        return dict(Shapes("inception-v3-compat", ["2048"]).state_dict())


def saved(state: Any, path: Path) -> str:
    torch.save(state, path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_inception_is_torch_fidelity(
    small_inception: dict[str, Tensor],
    digits: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Features and logits are those of torch-fidelity's own class on the same weights.

    Fails with: logits with bias, gray not repeated, images scaled, the order reversed.
    """
    from torch_fidelity import feature_extractor_inceptionv3 as module

    path = tmp_path / "inception.pth"
    digest = saved(small_inception, path)
    monkeypatch.setattr(inception, "WEIGHTS", replace(inception.WEIGHTS, sha256=digest))
    before = module.load_state_dict_from_url
    ours = open_extractor(digits, tmp_path, CPU, SILENT, "inception", path)
    assert module.load_state_dict_from_url is before
    theirs = module.FeatureExtractorInceptionV3(
        "inception-v3-compat", ["logits_unbiased", "2048"], str(path)
    )
    images = uint8(digits)[:3]
    with torch.no_grad():
        logits, features = theirs(images.repeat(1, 3, 1, 1))
    found = ours(images)
    assert found.logits is not None and found.features.dtype == torch.float64
    assert torch.allclose(found.features, features.double(), atol=1e-6)
    assert torch.allclose(found.logits, logits.double(), atol=1e-5)
    info = ours.info
    assert (info.name, info.hash, info.split) == ("inception-v3-compat", digest, "none")
    assert info.dim == 2048 and info.accuracy is None


def test_unknown_weights_are_refused(
    small_inception: dict[str, Tensor], digits: Dataset, tmp_path: Path
) -> None:
    """Another file than the published one needs trust, and its true hash is published.

    Fails with: no comparison of hashes, the published hash reported for any file.
    """
    path = tmp_path / "mine.pth"
    digest = saved(small_inception, path)
    with pytest.raises(InputError, match="--trust"):
        open_extractor(digits, tmp_path, CPU, SILENT, "inception", path)
    found = open_extractor(digits, tmp_path, CPU, SILENT, "inception", path, trust=True)
    assert found.info.hash == digest and "not the published" in found.info.source


class Evil:
    """Unpickling it would write a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (open, (str(self.target), "w"))


@pytest.mark.parametrize("name", ["inception", "dinov2", "clip"])
def test_even_trusted_pickles_are_not_executed(name: str, digits: Dataset, tmp_path: Path) -> None:
    """Fails with: `weights_only=False`."""
    path = tmp_path / "evil.pth"
    torch.save({"fc.weight": Evil(tmp_path / "written")}, path)
    with pytest.raises(InputError, match="evil.pth"):
        open_extractor(digits, tmp_path, CPU, SILENT, name, path, trust=True)
    assert not (tmp_path / "written").exists()


@pytest.mark.parametrize("name", ["inception", "dinov2", "clip"])
@pytest.mark.parametrize("content", [b"", b"no weights", None])
def test_files_that_are_no_weights(
    name: str, content: bytes | None, digits: Dataset, tmp_path: Path
) -> None:
    """Empty, garbage, or another network's: one line that names the file.

    Fails with: errors of torch passed on.
    """
    path = tmp_path / "other.pth"
    if content is None:
        torch.save({"weight": torch.zeros(3)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        open_extractor(digits, tmp_path, CPU, SILENT, name, path, trust=True)
    assert "other.pth" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["inception", "dinov2-vit-s-14", "clip"])
def test_no_network(
    name: str, digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line: what, from where, where to place it, and the option.

    Fails with: torch-fidelity left to download, `URLError` passed on.
    """

    def unreachable(url: str, *args: Any, **kwargs: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(MachineError) as caught:
        open_extractor(digits, tmp_path, CPU, SILENT, name)
    said = str(caught.value)
    assert "https://" in said and "--weights PATH" in said and "no route" in said
    assert str(tmp_path / "hub" / "checkpoints") in said and "\n" not in said


def test_what_is_fetched_is_verified(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch compares the whole hash; a file that lies in the cache is compared here.

    Fails with: `hash_prefix` left out, files of the cache trusted by name.
    """
    asked: dict[str, Any] = {}

    def fetched(url: str, path: str, hash_prefix: str, progress: bool) -> None:
        asked.update(url=url, hash=hash_prefix)
        Path(path).write_bytes(b"wrong")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetched)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(InputError, match="remove it"):
        open_extractor(digits, tmp_path, CPU, SILENT, "dinov2")
    assert asked["url"].endswith("dinov2_vitl14_pretrain.pth") and len(asked["hash"]) == 64
    asked.clear()
    with pytest.raises(InputError, match="remove it"):
        open_extractor(digits, tmp_path, CPU, SILENT, "dinov2")
    assert not asked


def test_published_hashes_agree_with_their_sources() -> None:
    """torch-fidelity's addresses carry (parts of) the hashes.

    Fails with: a digit of a hash mistyped, an address of another variant.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    assert inception.WEIGHTS.url == URL_INCEPTION_V3
    assert inception.WEIGHTS.sha256.startswith(
        inception.WEIGHTS.file.removesuffix(".pth").rpartition("-")[2]
    )
    for name in extractors.EXTRACTORS["clip"].variants:
        assert clip.published(name).sha256 in clip.published(name).url
    for name in extractors.EXTRACTORS["dinov2"].variants:
        weights = dinov2.published(name)
        assert len(weights.sha256) == 64 and f"vit{name.split('-')[2]}14" in weights.file


SMALL = dinov2.Architecture(24, 2, 3, grid=20)


def random_dinov2(gated: bool = False) -> dinov2.VisionTransformer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = dinov2.VisionTransformer(replace(SMALL, gated=gated))
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.3)
    return network.eval()


@pytest.mark.parametrize("gated", [False, True])
def test_dinov2_by_hand(gated: bool) -> None:
    """A block written out with plain sums equals the network, in both feed-forward parts.

    Fails with: pre-norm for post-norm, heads mixed up, scale of attention missing, gate and
    value swapped, layer scale left out, the class token last.
    """
    network = random_dinov2(gated)
    p = {k: v.double() for k, v in network.state_dict().items()}
    x = torch.randn(2, 3, 280, 280, generator=torch.Generator().manual_seed(1)).double()
    windows = x.unfold(2, 14, 14).unfold(3, 14, 14).permute(0, 2, 3, 1, 4, 5).reshape(2, 400, -1)
    t = windows @ p["patch_embed.proj.weight"].flatten(1).T + p["patch_embed.proj.bias"]
    t = torch.cat([p["cls_token"].expand(2, 1, 24), t], 1) + p["pos_embed"]

    def norm(z: Tensor, at: str) -> Tensor:
        z = z - z.mean(-1, keepdim=True)
        scale = (z.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return z / scale * p[f"{at}.weight"] + p[f"{at}.bias"]

    def linear(z: Tensor, at: str) -> Tensor:
        return z @ p[f"{at}.weight"].T + p[f"{at}.bias"]

    for b in ("blocks.0", "blocks.1"):
        parts = linear(norm(t, f"{b}.norm1"), f"{b}.attn.qkv").split(24, -1)
        heads = []
        for h in range(3):
            q, k, v = (part[..., 8 * h : 8 * h + 8] for part in parts)
            heads.append(torch.softmax(q @ k.transpose(1, 2) / 8**0.5, -1) @ v)
        mixed = linear(torch.cat(heads, -1), f"{b}.attn.proj")
        t = t + mixed * p[f"{b}.ls1.gamma"]
        z = norm(t, f"{b}.norm2")
        if gated:
            gate, value = linear(z, f"{b}.mlp.w12").chunk(2, -1)
            fed = linear(gate * torch.sigmoid(gate) * value, f"{b}.mlp.w3")
        else:
            inner = linear(z, f"{b}.mlp.fc1")
            inner = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
            fed = linear(inner, f"{b}.mlp.fc2")
        t = t + fed * p[f"{b}.ls2.gamma"]
    expected = norm(t, "norm")[:, 0]
    with torch.no_grad():
        found = network.double()(x)
    assert torch.allclose(found, expected, atol=1e-8)


def test_dinov2_is_torch_fidelity(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a file of tensors: what torch-fidelity computes around the same network.

    Fails with: other sides, another resize, normalization of [0, 1] values applied to 0 … 255.
    """
    compat.install()
    from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2

    network = random_dinov2()
    path = tmp_path / "small.pth"
    digest = saved(network.state_dict(), path)
    monkeypatch.setitem(dinov2.ARCHITECTURES, "dinov2-vit-s-14", SMALL)  # type: ignore[arg-type]
    monkeypatch.setitem(dinov2._PUBLISHED, "s", (digest, 1))
    monkeypatch.setattr(torch.hub, "load", lambda *args: network)
    theirs = FeatureExtractorDinoV2("dinov2-vit-s-14", ["dinov2"])
    ours = open_extractor(digits, tmp_path, CPU, SILENT, "dinov2-vit-s-14", path)
    images = uint8(digits)[:3]
    with torch.no_grad():
        (expected,) = theirs(images.repeat(1, 3, 1, 1))
    assert torch.allclose(ours(images).features, expected.double(), atol=1e-5)
    assert ours.info.dim == 24 and ours.info.hash == digest and ours.info.source


def test_published_sizes_of_dinov2() -> None:
    """Parameters as published: 22.06 M, 86.58 M, 304.37 M and 1,136.48 M with the mask token.

    Fails with: another depth or width, the gated part as wide as the plain one.
    """
    found = {}
    for name, sizes in dinov2.ARCHITECTURES.items():
        with torch.device("meta"):
            network = dinov2.VisionTransformer(sizes)
        found[name[11]] = sum(p.numel() for p in network.parameters()) / 1e6
    for size, millions in {"s": 22.06, "b": 86.58, "l": 304.37, "g": 1136.48}.items():
        assert found[size] == pytest.approx(millions, rel=1e-3)


class TinyClip(nn.Module):
    """The parameters of a CLIP with one layer, under their published names."""

    def __init__(self) -> None:
        super().__init__()
        from torch_fidelity.feature_extractor_clip import VisionTransformer

        self.visual = VisionTransformer(64, 32, 64, 1, 1, 16)
        self.text_projection = nn.Parameter(torch.randn(4, 16))
        self.logit_scale = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_clip_is_torch_fidelity(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a TorchScript archive as the published one is.

    Fails with: gray not repeated, images scaled before they are handed over.
    """
    compat.install()
    from torch_fidelity.feature_extractor_clip import FeatureExtractorCLIP

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        scripted = torch.jit.trace(TinyClip(), torch.zeros(1))
    path = tmp_path / "clip.pt"
    torch.jit.save(scripted, str(path))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    weights = replace(clip.published("clip-vit-b-32"), sha256=digest)
    monkeypatch.setattr(clip, "published", lambda name: weights)
    ours = open_extractor(digits, tmp_path, CPU, SILENT, "clip", path)
    theirs = FeatureExtractorCLIP("clip-vit-b-32", ["clip"], str(path))
    images = uint8(digits)[:3]
    (expected,) = theirs(images.repeat(1, 3, 1, 1))
    assert torch.allclose(ours(images).features, expected.double(), atol=1e-6)
    assert ours.info.name == "clip-vit-b-32" and ours.info.dim == 16


def test_two_channels_are_no_colors() -> None:
    """Fails with: `expand` left to complain."""
    with pytest.raises(InputError, match="1 or 3 channels"):
        pretrained.to_rgb(torch.zeros(1, 2, 4, 4, dtype=torch.uint8))
