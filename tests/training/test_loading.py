from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models
import torch
from tiny_models import Tiny, tiny_data

import genzoo
from genzoo.errors import InputError
from genzoo.runs import Run
from genzoo.training import loading

DATA = tiny_data()
SOURCE = Path(tiny_models.__file__)


def train(path: Path, model: object) -> Run:
    return genzoo.train(
        model, DATA, budget="3steps", samples=4, evaluate=False, out=path, device="cpu"
    )


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(SOURCE.read_text())
    return file


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in another process, in which the user named nothing."""
    monkeypatch.setattr(loading, "_named_files", set())
    monkeypatch.setattr(loading, "_named_classes", {})


def test_the_averaged_weights_come_back_in_evaluation_mode(tmp_path: Path) -> None:
    run = train(tmp_path / "run", Tiny)
    before = torch.get_rng_state()
    model = genzoo.load_model(run.path)
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(model, Tiny) and not model.training
    assert model.spec.num_classes == 2
    again = genzoo.load_model(run)
    samples = run.samples()
    assert samples is not None and samples.images is not None
    info = run.samples_info()
    assert info is not None
    drawn = again.sample(4, seed=info["seed"]).float() * 255 / 4
    assert drawn.round().flatten().tolist() == samples.images.flatten().tolist()


def test_a_file_is_executed_only_when_named_or_trusted(
    tmp_path: Path, own_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{own_file}:Tiny"
    run = train(tmp_path / "run", name)
    assert run.config["model"] == name and len(run.config["model_sha256"]) == 64
    assert genzoo.load_model(run) is not None  # named in this process
    forget(monkeypatch)
    marker = tmp_path / "executed"
    with pytest.raises(InputError, match="executes that file.*--model.*--trust") as caught:
        genzoo.load_model(run)
    assert run.config["model_sha256"][:16] in str(caught.value)
    assert type(genzoo.load_model(run, trust=True)).__name__ == "Tiny"
    forget(monkeypatch)
    assert type(genzoo.load_model(run, model=name)).__name__ == "Tiny"
    forget(monkeypatch)
    own_file.write_text(f"open({str(marker)!r}, 'w')\n" + SOURCE.read_text())
    with pytest.raises(InputError, match="has changed"):
        genzoo.load_model(run, trust=True)
    assert not marker.exists()
    own_file.unlink()
    with pytest.raises(InputError, match="is gone"):
        genzoo.load_model(run, trust=True)


def test_a_changed_file_does_not_resume(tmp_path: Path, own_file: Path) -> None:
    train(tmp_path / "run", f"{own_file}:Tiny")
    own_file.write_text(own_file.read_text() + "\n# changed\n")
    with pytest.raises(InputError, match="the model's file"):
        genzoo.train(
            f"{own_file}:Tiny",
            DATA,
            budget="3steps",
            samples=4,
            out=tmp_path / "run",
            resume=True,
            device="cpu",
        )


def test_a_class_must_be_passed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train(tmp_path / "run", Tiny)
    forget(monkeypatch)
    with pytest.raises(InputError, match="tiny_models.Tiny.*pass it again"):
        genzoo.load_model(run)
    assert isinstance(genzoo.load_model(run, model=Tiny), Tiny)


def test_weights_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    run = train(tmp_path / "run", Tiny)
    with pytest.raises(InputError, match="do not fit model") as caught:
        genzoo.load_model(run, model=tiny_models.Duel)
    assert "\n" not in str(caught.value)


def test_settings_that_json_cannot_hold_are_refused() -> None:
    source = loading.find_model(Tiny)
    with pytest.raises(InputError, match="cannot be written"):
        source.settings({"note": object()}, tiny_data().spec)


def test_a_class_with_another_signature_is_the_users_mistake() -> None:
    class Odd(Tiny):
        def __init__(self) -> None:
            raise AssertionError

    with pytest.raises(InputError, match=r"Class\(spec, settings\)"):
        loading.find_model(Odd).build(DATA.spec, {})
