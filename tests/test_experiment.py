from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import Broken, Duel, Tiny

import genzoo
from genzoo.errors import InputError, Interrupted, PartialFailure
from genzoo.experiment import ComparisonFailed, runners
from genzoo.experiment import plan as plans
from genzoo.experiment.runners import Task, arguments_of
from genzoo.experiment.slots import Slots
from genzoo.runs import open_run

TINY = f"{Path(__file__).parent / 'tiny_models.py'}:Tiny"


def compare(out: Path, models: Any = (Tiny,), **options: Any) -> genzoo.Comparison:
    options = {"budget": "6steps", "seeds": 2, "samples": 40, "controls": (), **options}
    return genzoo.compare(models, "ring", out=out, device="cpu", **options)


def samples(comparison: genzoo.Comparison) -> dict[str, bytes]:
    return {path.name: (path / "samples.npz").read_bytes() for path in comparison.runs}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> genzoo.Comparison:
    return compare(tmp_path_factory.mktemp("compare") / "c", controls=("noise", "copycat"))


def test_every_model_and_seed_and_each_control_once(done: genzoo.Comparison) -> None:
    assert [p.name for p in done.runs] == ["tiny-s0", "tiny-s1", "noise-s0", "copycat-s0"]
    assert all(open_run(path).finished for path in done.runs)
    assert done.failed == {} and done.report == done.path / "report.html"
    assert {"compare.json", "report.html", "report.md", "scores.csv", "scores.json"} <= {
        path.name for path in done.path.iterdir()
    }
    assert len(set(samples(done).values())) == 4
    summary = {row["model"]: row for row in done.summary()}
    assert summary["tiny"]["seeds"] == 2 and summary["noise"]["seeds"] == 1
    speed = summary["tiny"]["metrics"]["samples_per_second"]
    assert speed["low"] < speed["mean"] < speed["high"]
    assert summary["noise"]["metrics"]["samples_per_second"]["low"] is None
    head, body = done.table()
    assert all(len(row) == len(head) for row in body)
    assert [row[0] for row in body] == ["tiny", "noise", "copycat", "real data"]
    assert json.dumps(done.to_dict(), allow_nan=False)
    assert str(done.report) in str(done)


def test_a_second_comparison_has_the_same_bytes(done: genzoo.Comparison, tmp_path: Path) -> None:
    again = compare(tmp_path / "c", controls=("noise", "copycat"))
    assert samples(again) == samples(done)


def test_finished_runs_are_not_repeated_and_missing_ones_are_made(
    done: genzoo.Comparison,
) -> None:
    before = samples(done)
    times = {path: (path / "samples.npz").stat().st_mtime_ns for path in done.runs}
    victim = done.runs[1]
    shutil.rmtree(victim)
    victim.mkdir()
    again = compare(done.path, controls=("noise", "copycat"))
    assert samples(again) == before
    kept = [path for path in done.runs if path != victim]
    assert all((path / "samples.npz").stat().st_mtime_ns == times[path] for path in kept)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ({"budget": "7steps"}, "its budget are 6steps, not 7steps"),
        ({"seeds": 3}, "its seeds"),
        ({"models": (Duel,)}, "its models"),
        ({"controls": ()}, "its controls"),
        ({"settings": {"tiny.lr": 1}}, "its settings"),
        ({"samples": 41}, "its samples"),
    ],
)
def test_another_plan_needs_another_folder(
    done: genzoo.Comparison, other: dict[str, Any], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        compare(done.path, **{"controls": ("noise", "copycat"), **other})


def test_a_folder_that_holds_something_else_is_left_alone(done: genzoo.Comparison) -> None:
    with pytest.raises(InputError, match="holds something else"):
        compare(done.runs[0])


def test_a_failing_model_is_reported_and_the_others_go_on(tmp_path: Path) -> None:
    with pytest.raises(ComparisonFailed, match="1 of 2 runs failed.*my mistake") as caught:
        compare(tmp_path / "c", (Broken, Tiny), seeds=1)
    found = caught.value.comparison
    assert caught.value.exit_code == 3
    assert found.failed == {"broken-s0": "ZeroDivisionError: my mistake"}
    assert open_run(found.path / "runs" / "broken-s0").status["state"] == "failed"
    assert open_run(found.path / "runs" / "tiny-s0").finished
    assert "my mistake" in found.report.read_text()
    assert "broken-s0 failed" in str(found) and "broken (1 failed)" in str(found)


class Stopper:
    def __init__(self, when: Callable[[str, float], bool]) -> None:
        self._when = when

    def note(self, message: str) -> None:
        pass

    def update(self, task: str, fraction: float, detail: str = "") -> None:
        if self._when(task, fraction):
            self._when = lambda task, fraction: False
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("task", ["tiny-s1 training", "comparison"])
def test_an_interrupted_comparison_goes_on_where_it_stopped(
    done: genzoo.Comparison, tmp_path: Path, task: str
) -> None:
    stopper = Stopper(lambda t, fraction: t == task and fraction >= 0.5)
    with pytest.raises(Interrupted, match="the same command goes on"):
        compare(tmp_path / "c", controls=("noise", "copycat"), progress=stopper)
    assert open_run(tmp_path / "c" / "runs" / "tiny-s0").finished
    assert not (tmp_path / "c" / "report.html").exists()
    again = compare(tmp_path / "c", controls=("noise", "copycat"))
    assert samples(again) == samples(done)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"models": ()}, "no model to compare"),
        ({"models": "difusion"}, "did you mean 'diffusion'"),
        ({"controls": "nois"}, "did you mean 'noise'"),
        ({"seeds": 0}, "--seeds 0"),
        ({"jobs": 0}, "--jobs 0"),
        ({"settings": {"lr": 1}}, "begin with the model"),
        ({"settings": {"vae.lr": 1}}, "begin with the model"),
        ({"settings": {"tiny.lrr": 1}}, "did you mean 'lr'"),
        ({"jobs": 2, "models": (Tiny,)}, "jobs > 1 needs models by name"),
        ({"devices": 0}, "--devices 0"),
        ({"devices": 2, "models": (Tiny,)}, "devices > 1 needs models by name"),
        ({"jobs": 2, "models": "noise", "threads": 10_000, "budget": "5s"}, "would not be fair"),
        ({"models": (Tiny, TINY.replace(":Tiny", ":Duel"), Duel, TINY)}, None),
    ],
)
def test_wrong_plans_are_refused_before_anything_is_trained(
    tmp_path: Path, wrong: dict[str, Any], says: str | None
) -> None:
    if says is None:
        wrong, says = {"models": (Duel, type("Duel", (Duel,), {}))}, "would both be called 'duel'"
    with pytest.raises(InputError, match=says):
        compare(tmp_path / "c", **wrong)
    assert not (tmp_path / "c").exists()


def test_models_by_text() -> None:
    assert plans.distinct("vae, gan,vae") == ["vae", "gan"]
    assert plans.distinct("none") == plans.distinct(()) == []


def test_the_command_line_of_a_run() -> None:
    class Named:
        name = "ring"

    options = {
        "budget": "5steps",
        "seed": 2,
        "conditional": False,
        "settings": {"lr": 0.5, "limit": None},
        "data_root": None,
        "threads": 1,
    }
    task = Task("vae", Path("runs/vae-s2"), options)
    assert (
        arguments_of(task, Named())
        == (  # type: ignore[arg-type]
            "train --resume --json --model vae --data ring --out runs/vae-s2 --no-conditional "
            "--set lr=0.5 --set limit=none --budget 5steps --seed 2 --threads 1"
        ).split()
    )


def test_processes_give_the_same_bytes_and_fail_alone(tmp_path: Path) -> None:
    found = []
    for jobs in (1, 2):
        with pytest.raises(ComparisonFailed, match="1 of 2 runs failed") as caught:
            compare(
                tmp_path / str(jobs),
                (TINY, TINY.replace(":Tiny", ":Broken")),
                seeds=1,
                threads=1,
                settings={"tiny_models-tiny.lr": 0.01},
                jobs=jobs,
            )
        found.append(caught.value.comparison)
    here, there = found
    assert there.failed == here.failed
    assert there.failed == {"tiny_models-broken-s0": "ZeroDivisionError: my mistake"}
    assert here.runs[0].name == there.runs[0].name == "tiny_models-tiny-s0"
    mine, theirs = ((c.runs[0] / "samples.npz").read_bytes() for c in found)
    assert mine == theirs


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_each_run_on_two_devices(tmp_path: Path, jobs: int) -> None:
    """One after the other in one process, and in processes of their own."""
    pytest.importorskip("lightning_fabric")
    found = compare(tmp_path / "c", (TINY,), devices=2, jobs=jobs, threads=1)
    assert found.failed == {} and len(found.runs) == 2
    for path in found.runs:
        run = open_run(path)
        assert run.finished and run.config["devices"] == 2 and run.scores() is not None


def test_a_killed_process_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[int] = []
    real = runners._start

    def start(task: Task, dataset: Any, tries: int, slots: Slots, slot: int) -> runners._Process:
        starts.append(tries)
        if tries == 0:  # dies at once
            monkeypatch.setattr(sys, "executable", killer)
        try:
            return real(task, dataset, tries, slots, slot)
        finally:
            monkeypatch.setattr(sys, "executable", python)

    python, killer = sys.executable, str(tmp_path / "killer")
    Path(killer).write_text("#!/bin/sh\nkill -9 $$\n")
    Path(killer).chmod(0o755)
    monkeypatch.setattr(runners, "_start", start)
    monkeypatch.setattr(runners, "RETRIES", 0)
    with pytest.raises(PartialFailure, match="none of 1 runs.*killed by signal 9"):
        compare(tmp_path / "c", "noise", seeds=1, jobs=2)
    monkeypatch.setattr(runners, "RETRIES", 1)
    assert compare(tmp_path / "c", "noise", seeds=1, jobs=2).failed == {}
    assert starts == [0, 0, 1]
