"""The command line, end to end with tiny budgets."""

from __future__ import annotations

import errno
import inspect
import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from conftest import Genzoo
from PIL import Image

import genzoo
from genzoo.errors import Interrupted, PartialFailure
from genzoo.registry import DEFAULT_MODELS
from genzoo_cli import console
from genzoo_cli.console import Reporter, duration, table, to_json
from genzoo_cli.main import COMMANDS, LazyGroup, main
from genzoo_cli.main import genzoo as group

ROOT = Path(__file__).parents[1]
SOURCES = os.pathsep.join(map(str, (ROOT, ROOT / "cli", ROOT / "reports")))
TINY = ("--budget", "3steps", "--samples", "60")


def strict(text: str) -> Any:
    """Read JSON that holds neither NaN nor infinities."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def command(name: str) -> click.Command:
    found = group.get_command(click.Context(group), name)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained, sampled and scored run."""
    path = tmp_path_factory.mktemp("cli") / "vae"
    assert main(["train", "--model", "vae", *TINY, "--out", str(path), "-q"]) == 0
    return path


# -- help and start -------------------------------------------------------------------------


def test_help_is_instant_and_imports_no_torch() -> None:
    code = (
        "import sys; from genzoo_cli.main import main; code = main(['--help']);"
        "heavy = {'torch', 'numpy', 'rich', 'matplotlib', 'sklearn'} & set(sys.modules);"
        "assert not heavy, heavy; sys.exit(code)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": SOURCES},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    # Processor time, because the wall clock of a busy machine says little.
    assert spent / 3 < 0.4
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)


def test_python_dash_m_is_the_same_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "genzoo_cli", "--version"],
        env={**os.environ, "PYTHONPATH": SOURCES},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, f"genzoo {genzoo.__version__}\n")


def test_no_words_show_the_help(genzoo_says: Genzoo) -> None:
    said = genzoo_says()
    assert said.code == 0
    assert "Commands:" in said.out


def every_command() -> list[str]:
    """All commands by the words that call them."""
    names = []
    for name in COMMANDS:
        found = command(name)
        inner = list(found.commands) if isinstance(found, click.Group) else []
        names += [f"{name} {part}" for part in inner] or [name]
    return names


@pytest.mark.parametrize("name", every_command())
def test_every_command_has_help_with_examples(name: str, genzoo_says: Genzoo) -> None:
    said = genzoo_says(*name.split(), "--help")
    assert said.code == 0
    assert said.out.count(f"  genzoo {name}") >= 2
    for option in ("--json", "--quiet", "--debug"):
        assert option in said.out


def examples() -> list[str]:
    assert isinstance(group, LazyGroup)
    return [*group.examples, *(line for name in COMMANDS for line in command(name).examples)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("line", examples())
def test_examples_are_real(line: str) -> None:
    program, name, *words = shlex.split(line)
    assert program == "genzoo"
    command(name).make_context(name, words, obj=console.Session())


@pytest.mark.parametrize(
    ("line", "function"),
    [
        ("train --model vae", "train"),
        ("compare", "compare"),
        ("sample RUN -o x.png", "sample"),
        ("report RUN", "report"),
        ("evaluate X", "evaluate"),
        ("data", "open_dataset"),
    ],
)
def test_options_have_the_names_and_defaults_of_the_python_api(line: str, function: str) -> None:
    api = inspect.signature(getattr(genzoo, function)).parameters
    name, *words = line.split()
    given = {
        "train": {"model"},
        "sample": {"run", "out"},
        "report": {"runs"},
        "data": {"name"},
    }.get(name, set())
    other_tasks = {"self_test", "merge", "gather", "first", "sweep", "values", "diff"}
    named_otherwise = {
        "evaluate": {"sources", "out"} | other_tasks,
        "compare": {"dry_run", "device_rates"},  # genzoo.forecast
        "data": {"data_root"},
        "report": other_tasks,
    }.get(name, set())
    context = command(name).make_context(name, words, obj=console.Session())
    for key, value in context.params.items():
        if key in named_otherwise:
            continue
        assert key in api, f"genzoo.{function} has no parameter {key}"
        if key in given:
            continue
        expected = api[key].default
        if key == "settings":  # pairs at the command line, a mapping in Python
            assert value == ()
            assert not expected
        else:
            assert (str(value) if isinstance(value, Path) else value) == expected, key


# -- the commands ---------------------------------------------------------------------------


def test_train_says_how_it_went(run: Path, tmp_path: Path, genzoo_says: Genzoo) -> None:
    said = genzoo_says("train", "--model", "vae", *TINY, "--out", run, "--resume")
    assert said.code == 0
    assert "vae on digits: finished, 3 steps" in said.out
    assert "two_sample_1nn" in said.out
    assert f"{run}/samples.png" in said.out
    for name in ("samples.npz", "samples.png", "scores.json", "model.safetensors"):
        assert (run / name).is_file()


def test_train_answers_one_json_object(tmp_path: Path, genzoo_says: Genzoo) -> None:
    out = tmp_path / "run"
    words = ("--model", "noise", *TINY, "--no-evaluate", "--seed", "4", "--out", out, "--json")
    said = genzoo_says("train", *words)
    answer = strict(said.out)
    assert said.code == 0
    assert answer["run"] == str(out)
    assert answer["config"]["seed"] == 4
    assert answer["status"]["state"] == "finished"
    assert answer["scores"] is None


def test_settings_reach_the_model(tmp_path: Path, genzoo_says: Genzoo) -> None:
    words = ("--no-evaluate", "--no-conditional", "--set", "components=3", "--json")
    said = genzoo_says("train", "--model", "gmm", *TINY, "--out", tmp_path / "run", *words)
    answer = strict(said.out)
    assert answer["config"]["settings"]["components"] == 3
    assert answer["config"]["conditional"] is False


def test_sample_writes_what_the_name_says(run: Path, tmp_path: Path, genzoo_says: Genzoo) -> None:
    assert genzoo_says("sample", run, "-n", "9", "-o", tmp_path / "grid.png").code == 0
    assert Image.open(tmp_path / "grid.png").width > 3 * 8

    npz = tmp_path / "samples.npz"
    said = genzoo_says("sample", run, "-n", "7", "--labels", "3,7", "-o", npz, "--json")
    assert strict(said.out)["n"] == 7
    with np.load(npz, allow_pickle=False) as arrays:
        assert arrays["images"].shape == (7, 8, 8, 1)
        assert set(arrays["labels"]) == {3, 7}

    assert genzoo_says("sample", run, "-n", "5", "-o", f"{tmp_path / 'images'}/").code == 0
    assert len(list((tmp_path / "images").rglob("*.png"))) == 5


def test_evaluate_one_and_several(run: Path, tmp_path: Path, genzoo_says: Genzoo) -> None:
    one = genzoo_says("evaluate", run, "--json", "-o", tmp_path / "scores.json")
    scores = strict(one.out)
    assert scores["model"] == "vae"
    assert scores["metrics"]["two_sample_1nn"]["value"] > 0.5
    assert strict((tmp_path / "scores.json").read_text()) == scores

    both = strict(
        genzoo_says("evaluate", run, run / "samples.npz", "--data", "digits", "--json").out
    )
    assert [result["source"] for result in both["results"]] == ["run", "npz"]

    head, title, _, fd, *_ = genzoo_says("evaluate", run).out.splitlines()
    assert (head.split(), title.split()) == (
        ["real"],
        ["vae", "95", "%", "interval", "data"],
    )
    name, value, low, _, high, floor = fd.split()
    assert name.rstrip("*") == "fd"
    assert float(low) <= float(value) <= float(high)
    assert float(value) > float(floor)


def test_report_is_a_page(run: Path, tmp_path: Path, genzoo_says: Genzoo) -> None:
    page = tmp_path / "page.html"
    said = genzoo_says("report", run, "--out", page, "--title", "Three steps", "--json")
    assert strict(said.out)["report"] == str(page)
    assert "Three steps" in page.read_text("utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_compare_goes_on_past_a_failure(tmp_path: Path, genzoo_says: Genzoo) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(
        "import torch, genzoo\n"
        "class Mine(genzoo.GenerativeModel):\n"
        "    def __init__(self, spec, settings=None):\n"
        "        super().__init__(spec, settings)\n"
        "        self.weight = torch.nn.Parameter(torch.zeros(1))\n"
        "    def loss(self, batch, phase, state):\n"
        "        return genzoo.Loss(self.weight.sum() * float('nan'), {})\n"
        "    def draw(self, noise, cond, options):\n"
        "        return noise.normal(*self.spec.shape)\n"
    )
    out = tmp_path / "compared"
    words = ("--seeds", "1", "--controls", "none", "--budget", "3steps", "--out", out, "--json")
    said = genzoo_says("compare", "--models", f"gaussian,{mine}:Mine", *words)
    answer = strict(said.out)
    assert said.code == 3
    assert [Path(path).name for path in answer["runs"]] == ["gaussian-s0", "mine-mine-s0"]
    assert list(answer["failed"]) == ["mine-mine-s0"]
    assert "mine-mine-s0" in said.err.splitlines()[-1]
    assert Path(answer["report"]).is_file()


def test_compare_prints_the_table_and_the_page(tmp_path: Path, genzoo_says: Genzoo) -> None:
    out = tmp_path / "compared"
    words = ("--seeds", "2", "--controls", "noise", "--budget", "3steps", "--out", out)
    said = genzoo_says("compare", "--models", "gaussian", "--data", "ring", *words)
    assert said.code == 0
    assert "gaussian" in said.out
    assert "real data" in said.out
    assert said.out.rstrip().endswith(str(out / "report.html"))
    assert (out / "report.html").is_file()


def test_models_and_their_settings(genzoo_says: Genzoo) -> None:
    names = [m["name"] for m in strict(genzoo_says("models", "--json").out)["models"]]
    assert [name for name in names if name in DEFAULT_MODELS] == list(DEFAULT_MODELS)
    said = genzoo_says("models", "vae")
    settings = strict(genzoo_says("models", "vae", "--json").out)["settings"]
    assert {"name", "type", "default", "meaning"} == set(settings[0])
    assert all(setting["name"] in said.out for setting in settings)
    assert "No settings" in genzoo_says("models", "noise").out


def test_data_lists_and_opens(genzoo_says: Genzoo) -> None:
    listed = strict(genzoo_says("data", "--json").out)["datasets"]
    assert {"digits", "cifar10", "ring"} <= {entry["name"] for entry in listed}
    opened = strict(genzoo_says("data", "digits", "--json").out)
    assert (opened["train"], opened["test"]) == (1000, 797)
    assert "1×8×8, 17 levels" in genzoo_says("data", "digits").out


def test_doctor_finds_what_is_here(genzoo_says: Genzoo) -> None:
    said = genzoo_says("doctor", "--json")
    answer = strict(said.out)
    assert answer["works"] is True
    assert said.code == 0
    findings = {finding["name"]: finding for finding in answer["findings"]}
    assert {"python", "torch", "torchvision", "cpu", "threads", "cache", "runs"} <= set(findings)
    assert os.environ["GENZOO_CACHE"] in findings["cache"]["detail"]


def test_doctor_says_how_to_get_what_is_missing(
    genzoo_says: Genzoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    from genzoo import doctor

    packages = {**doctor._PACKAGES, "surely-not-installed": "surely_not"}
    monkeypatch.setattr(doctor, "_PACKAGES", packages)
    said = genzoo_says("doctor")
    assert said.code == 4
    assert "surely-not-installed: pip install surely-not-installed" in said.out


# -- failures -------------------------------------------------------------------------------


def failing(error: BaseException) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


class OutOfMemoryError(RuntimeError):
    """Named as torch's own."""


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (Interrupted("stopped at 40 %; go on with --resume"), 130, "stopped at 40 %"),
        (PartialFailure("1 of 3 runs failed"), 3, "1 of 3"),
        (MemoryError(), 4, "out of memory"),
        (OutOfMemoryError("CUDA out of memory. Tried 3 GiB"), 4, "Tried 3 GiB"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 4, "out of memory"),
        (OSError(errno.ENOSPC, "No space left on device", "x/y.npz"), 4, "'x/y.npz'"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 2, "permission denied"),
        (FileNotFoundError(errno.ENOENT, "No such file", "x"), 2, "'x'"),
        (OSError("network is unreachable"), 4, "network is unreachable"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 4, "genzoo doctor"),
        (ModuleNotFoundError("No module named 'genzoo.x'", name="genzoo.x"), 4, "internal error"),
        (KeyError("a fault\nof ours"), 4, "internal error (KeyError"),
    ],
)
def test_every_exception_is_one_line_and_a_code(
    error: BaseException,
    code: int,
    words: str,
    genzoo_says: Genzoo,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(genzoo, "train", failing(error))
    said = genzoo_says("train", "--model", "vae")
    assert said.code == code
    assert said.out == ""
    assert said.err.startswith("genzoo: error: ")
    assert said.err.count("\n") == 1
    assert words in said.err

    said = genzoo_says("train", "--model", "vae", "--json")
    body = strict(said.out)["error"]
    assert (said.code, body["exit_code"]) == (code, code)
    assert said.err == f"genzoo: error: {body['message']}\n"


@pytest.mark.parametrize("words", [("--debug", "train"), ("train", "--debug")])
def test_debug_shows_the_traceback(
    words: tuple[str, ...], genzoo_says: Genzoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(genzoo, "train", failing(KeyError("a fault")))
    said = genzoo_says(*words, "--model", "vae")
    assert "Traceback (most recent call last)" in said.err
    assert said.err.splitlines()[-1].startswith("genzoo: error: ")


def test_a_reader_that_goes_away_is_no_error(
    genzoo_says: Genzoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(genzoo, "train", failing(BrokenPipeError()))
    assert genzoo_says("train", "--model", "vae") == type(genzoo_says("--version"))(0, "", "")


def test_what_libraries_print_stays_out_of_the_json(
    genzoo_says: Genzoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chatty(*_: Any, **__: Any) -> Path:
        print("100 %|████| downloaded")
        return Path("page.html")

    monkeypatch.setattr(genzoo, "report", chatty)
    said = genzoo_says("report", "x", "--json")
    assert strict(said.out)["report"] == "page.html"
    assert "downloaded" in said.err


def test_json_holds_only_json() -> None:
    with pytest.raises(ValueError, match="JSON"):
        to_json({"value": float("nan")})


def test_a_batch_system_may_stop_any_command(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sys, "argv", ["genzoo", "--version"])
    try:
        assert main() == 0
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_stopped_training_can_go_on(name: str, tmp_path: Path, genzoo_says: Genzoo) -> None:
    out = tmp_path / "run"
    words = ("train", "--model", "vae", "--data", "ring", "--no-evaluate", "--out", str(out))
    words += ("--budget", "1e9steps", "--device", "cpu")
    process = subprocess.Popen(
        [sys.executable, "-m", "genzoo_cli", *words],
        env={**os.environ, "PYTHONPATH": SOURCES},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not (out / "history.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(getattr(signal, name))
        printed, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert printed == ""
    assert err.splitlines()[-1].startswith("genzoo: error: ")
    assert "--resume" in err.splitlines()[-1]
    run = genzoo.open_run(out)
    assert run.status["state"] == "interrupted"
    assert run.status["step"] > 0


# -- progress -------------------------------------------------------------------------------


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(console.time, "monotonic", clock)
    return clock


def test_plain_progress_grows_rarer(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter() as reporter:
        for second in range(101):
            clock.now = float(second)
            reporter.update("vae", second / 100, f"loss {second}")
        reporter.note("written")
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[0] == "vae: 5%, loss 5, 1:35 left"
    assert 8 <= len(lines) <= 16
    assert lines[-2:] == ["vae: done in 1:40, loss 100", "written"]


def test_short_work_says_nothing(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter() as reporter:
        reporter.update("vae", 0.0)
        clock.now = 1.0
        reporter.update("vae", 1.0)
    assert capsys.readouterr().err == ""


def test_quiet_is_quiet(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Reporter(quiet=True) as reporter:
        reporter.update("vae", 0.0)
        clock.now = 99.0
        reporter.update("vae", 0.5)
        reporter.note("written")
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with Reporter() as reporter:
        reporter.update("vae [bold]", 0.1, "loss 3.2, 900 images/s")
        reporter.update("vae [bold]", 0.6, "loss 1.1, 900 images/s")
        reporter.note("checkpoint [kept]")
        reporter._bars.refresh()
    err = capsys.readouterr().err
    assert "vae [bold]" in err
    assert "60%" in err
    assert "loss 1.1, 900 images/s" in err
    assert "checkpoint [kept]" in err


def test_tables_and_durations() -> None:
    shown = table(("", "gan"), [("fd", "1.5"), ("kid", "10")])
    assert shown.splitlines() == ["     gan", "───  ───", "fd   1.5", "kid   10"]
    shown = table(("", "training speed (items/s)"), [("gan", "1,200")])
    assert shown.splitlines()[:3] == ["      training", "         speed", "     (items/s)"]
    assert [duration(s) for s in (1.2, 59.4, 65, 3723)] == ["1 s", "59 s", "1:05", "1:02:03"]
