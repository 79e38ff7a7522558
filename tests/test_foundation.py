"""The ground floor: budgets, data specifications, noise, names and settings."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import torch

from genzoo.errors import InputError, unknown
from genzoo.model import draw_labels
from genzoo.noise import NoiseSource, derive_seed
from genzoo.registry import (
    MODELS,
    build,
    describe_settings,
    file_hash,
    load_class,
    parse_settings,
    resolve,
)
from genzoo.types import Budget, DataSpec, SampleOptions


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("60s", 60, "seconds"),
        ("1.5min", 90, "seconds"),
        ("2h", 7200, "seconds"),
        ("2000steps", 2000, "steps"),
        ("200kimg", 200_000, "images"),
        ("1e13flops", 1e13, "flops"),
        (" 5 S ", 5, "seconds"),
    ],
)
def test_budget_reads_amount_and_unit(text: str, amount: float, unit: str) -> None:
    budget = Budget.parse(text)
    assert (budget.amount, budget.unit) == (amount, unit)
    assert Budget.parse(str(budget)) == budget


@pytest.mark.parametrize(
    "text", ["0s", "-5s", "abc", "", "60", "1e999s", "nans", "0.5steps", "5 parsecs"]
)
def test_budget_refuses_and_names_the_value(text: str) -> None:
    with pytest.raises(InputError, match="budget") as caught:
        Budget.parse(text)
    assert f"'{text}'" in str(caught.value)


def test_unknown_names_suggest_the_nearest() -> None:
    assert "did you mean 'diffusion'" in str(unknown("model", "difusion", MODELS))
    assert "did you mean" not in str(unknown("model", "zzzz", MODELS))


def test_spec_survives_json() -> None:
    spec = DataSpec((1, 8, 8), 17, {"label": 3}, (0.5, 0.3, 0.2))
    assert DataSpec.from_dict(spec.to_dict()) == spec
    assert spec.unconditional().num_classes == 0
    with pytest.raises(InputError, match="not a data specification"):
        DataSpec.from_dict({"shape": "no"})


@pytest.mark.parametrize("kwargs", [{"steps": 0}, {"guidance": -1.0}, {"temperature": 0.0}])
def test_sample_options_refuse_nonsense(kwargs: dict[str, float]) -> None:
    with pytest.raises(InputError, match="--"):
        SampleOptions(**kwargs)  # type: ignore[arg-type]


def test_noise_depends_on_seed_and_index_alone() -> None:
    """Any slicing gives the same rows, in later draws too (seen to fail without row offset)."""
    whole = NoiseSource(7, 0, 100)
    first, second = whole.normal(3, 2), whole.uniform(4)
    for start, stop in ((0, 1), (31, 33), (5, 70), (64, 100)):
        part = NoiseSource(7, start, stop)
        assert torch.equal(part.normal(3, 2), first[start:stop])
        assert torch.equal(part.uniform(4), second[start:stop])
    assert not torch.equal(NoiseSource(8, 0, 100).normal(3, 2), first)
    assert not torch.equal(NoiseSource(7, 0, 100, stream=1).normal(3, 2), first)
    assert not torch.equal(first[:32], first[32:64])


def test_noise_is_standard_normal() -> None:
    z = NoiseSource(0, 0, 20_000).normal(5).double()
    assert abs(float(z.mean())) < 0.015 and abs(float(z.std()) - 1) < 0.01
    assert abs(float((z**4).mean()) - 3) < 0.1
    assert float(torch.corrcoef(z.T).fill_diagonal_(0).abs().max()) < 0.03


def test_seeds_beyond_32_bits_differ() -> None:
    """torch's CPU generator ignores the upper bits, so they must be mixed in before."""
    assert derive_seed(1) != derive_seed(1 + 2**32)
    assert derive_seed(0, 1) != derive_seed(1, 0)


def test_labels_follow_the_training_frequencies() -> None:
    spec = DataSpec((1, 4, 4), 256, {"label": 3}, (0.2, 0.0, 0.8))
    labels = draw_labels(spec, 20_000, seed=1)["label"]
    shares = labels.bincount(minlength=3) / len(labels)
    assert torch.allclose(shares, torch.tensor([0.2, 0.0, 0.8]), atol=0.02)
    assert torch.equal(draw_labels(spec, 10, seed=1, start=500)["label"], labels[500:510])


@dataclass(frozen=True)
class Typed:
    count: int = 3
    rate: float = 0.1
    fast: bool = False
    kind: Literal["a", "b"] = "a"
    top: float | None = None


def test_settings_are_read_by_type() -> None:
    texts = {"count": "1e3", "rate": "2", "fast": "true", "kind": "b", "top": "0.5"}
    assert parse_settings(Typed, texts, "m") == Typed(1000, 2.0, True, "b", 0.5)
    assert parse_settings(Typed, {"top": "none"}, "m").top is None


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("cuont", "1", "did you mean 'count'"),
        ("count", "1.5", "whole number"),
        ("rate", "fast", "finite number"),
        ("rate", "nan", "finite number"),
        ("fast", "perhaps", "true or false"),
        ("kind", "c", "known: a, b"),
    ],
)
def test_settings_refuse_and_say_why(key: str, value: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse_settings(Typed, {key: value}, "m")


def test_settings_describe_themselves() -> None:
    """Every setting of every model has a type that people can read and a meaning."""
    for entry in MODELS.values():
        for setting in describe_settings(load_class(entry.name).Settings):
            assert setting.meaning, f"{entry.name}.{setting.name}"
            assert "<" not in setting.type and "typing" not in setting.type
    kinds = {s.name: s.type for s in describe_settings(Typed)}
    assert kinds["kind"] == "a, b" and kinds["top"] == "float or none"


def test_a_model_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import torch\nfrom genzoo import GenerativeModel, Loss\n"
        "class Constant(GenerativeModel):\n"
        "    def loss(self, batch, phase, state):\n        raise RuntimeError\n"
        "    def draw(self, noise, cond, options):\n"
        "        return torch.zeros(noise.n, *self.spec.shape)\n"
        "class Plain: pass\n"
    )
    spec = DataSpec((1, 4, 4), 256)
    model = build(f"{path}:Constant", spec)
    assert tuple(model.sample(3).shape) == (3, 1, 4, 4)
    assert resolve(f"{path}:Constant").name == "mine-constant"
    assert len(file_hash(f"{path}:Constant") or "") == 64 and file_hash("gan") is None
    for wrong, says in (("Plain", "not a subclass"), ("Constnat", "did you mean 'Constant'")):
        with pytest.raises(InputError, match=says):
            build(f"{path}:{wrong}", spec)
    with pytest.raises(InputError, match="no file"):
        build(f"{tmp_path}/absent.py:Constant", spec)
    path.write_text("1 / 0\n")
    with pytest.raises(InputError, match="cannot be imported: ZeroDivisionError"):
        build(f"{path}:Constant", spec)


def test_names_and_budgets_import_no_torch() -> None:
    """Listing models and reading budgets must be instant."""
    code = (
        "import sys, genzoo, genzoo.registry, genzoo.types, genzoo.runs, genzoo.samples;"
        "genzoo.registry.resolve('gan'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
