"""Two processes on the CPU train as one does, stop together, and lose nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from as_ranks import PlainDuel
from conftest import Genzoo
from test_train import content
from tiny_models import tiny_data
from torch.nn import functional as F

import genzoo
from genzoo.errors import InputError
from genzoo.ranks import SHARED, Ranks, mean_sums, shared_cost
from genzoo.registry import MODELS
from genzoo.runs import open_run
from genzoo.training.draws import WholeDraws
from genzoo.training.loop import Minibatches, Trainer
from genzoo.types import Budget

pytest.importorskip("lightning_fabric", reason="pip install 'genzoo[distributed]'")

SCRIPT = Path(__file__).with_name("as_ranks.py")
CLOSE = 1e-5  # of float32, relative to the gradient's length
FAST = ("gan", "sngan", "vqvae", "meanflow")


def environment(**more: object) -> dict[str, str]:
    path = os.pathsep.join(p for p in sys.path if p)
    return {**os.environ, "PYTHONPATH": path, **{k: str(v) for k, v in more.items()}}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def pair(*words: object, timeout: float = 280) -> list[int]:
    """Exit codes of `as_ranks.py` on two ranks."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": 2}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), *map(str, words)],
            env=environment(LOCAL_RANK=rank, TORCH_CPP_LOG_LEVEL="ERROR", **meeting),
        )
        for rank in range(2)
    ]
    try:
        return [rank.wait(timeout) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()


@pytest.fixture(scope="module")
def basics(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What two ranks found out about small models, and how the loss of one ended."""
    out = tmp_path_factory.mktemp("ranks")
    begun = time.monotonic()
    codes = pair("basics", out)
    found = [json.loads((out / f"{rank}.json").read_text()) for rank in range(2)]
    assert found[0] == found[1]
    lost = (out / "lost-0.txt").read_text()
    return {**found[0], "codes": codes, "lost": lost, "seconds": time.monotonic() - begun}


# -- the same minibatch -----------------------------------------------------------------------


@pytest.mark.parametrize("model", ["Plain", "PlainDuel", "Reviving"])
def test_two_ranks_follow_the_gradient_of_one(basics: dict[str, Any], model: str) -> None:
    found = basics[model]
    assert found["same"] and found["gradient"] < CLOSE < found["norm"]
    assert found["images"][0] == found["images"][1]
    assert found["flops"][0] == pytest.approx(found["flops"][1])


@pytest.mark.parametrize("model", ["Normed", "Average"])
def test_what_a_loss_takes_from_a_whole_minibatch_it_takes_from_a_share(
    basics: dict[str, Any], model: str
) -> None:
    """Batch norm, and a comparison of items: the ranks agree, but not with one process."""
    found = basics[model]
    assert found["same"] and found["gradient"] > 1e-3


def test_history_holds_the_mean_over_ranks(basics: dict[str, Any]) -> None:
    together, alone = basics["Plain"]["losses"]
    assert together == pytest.approx(alone, rel=1e-5)


def test_parts_of_a_minibatch_are_averaged_once(basics: dict[str, Any]) -> None:
    found = basics["parts"]
    assert found["gradient"] < CLOSE
    # a survey and a step of the critic and the generator; a second step of the critic
    assert found["reduced"] == [False, False, False, True] * 5


def test_samples_of_two_ranks_are_those_of_one(basics: dict[str, Any]) -> None:
    assert basics["samples"]


def test_ranks_share_the_items_of_a_likelihood(basics: dict[str, Any]) -> None:
    """Batches of 50 of 130 items, and of every fourth again. Fails with: noise by rank."""
    assert basics["likelihood"] == {"same": True, "batches": [3, 1]}


def check_families(tmp_path: Path, names: Sequence[str], data: str) -> None:
    assert pair("families", tmp_path, ",".join(names), data) == [0, 0]
    found = json.loads((tmp_path / "0.json").read_text())
    assert list(found) == list(names)
    for name, said in found.items():
        assert said["same"], name
        assert said["images"][0] == said["images"][1], name
        if said["batch_norm"]:
            assert said["gradient"] > 1e-4, f"{name}: now equal, say so in the docs"
        else:
            assert said["gradient"] < CLOSE, (name, said)


def test_families_on_two_ranks_are_those_on_one(tmp_path: Path) -> None:
    check_families(tmp_path, FAST, "ring")


@pytest.mark.slow
@pytest.mark.parametrize("data", ["digits", "ring"])
def test_every_family_on_two_ranks_is_that_on_one(tmp_path: Path, data: str) -> None:
    check_families(tmp_path, list(MODELS), data)


def test_shares_of_ranks_make_up_the_minibatch() -> None:
    data = tiny_data()
    device = torch.device("cpu")
    whole = Minibatches(data.train, data.spec, 12, 0, device)
    parts = [Minibatches(data.train, data.spec, 12, 0, device, _rank(r, 3)) for r in range(3)]
    for number in (0, 3, 5):
        joined = torch.cat([part[number].x for part in parts])
        assert torch.equal(joined, whole[number].x)
        labels = torch.cat([part[number].cond["label"] for part in parts])
        assert torch.equal(labels, whole[number].cond["label"])


def _rank(rank: int, count: int) -> Ranks:
    ranks = Ranks()
    ranks.rank, ranks.count = rank, count
    return ranks


# -- random numbers ---------------------------------------------------------------------------


def drawn(items: int) -> dict[str, torch.Tensor]:
    """Draws of many kinds for so many items, rows first."""
    torch.manual_seed(3)
    x = torch.ones(items, 3, 4, 4)
    last = torch.ones(items, 4, 4, 3).permute(0, 3, 1, 2)
    return {
        "randn": torch.randn(items, 5),
        "randn_like": torch.randn_like(x),
        "channels last": torch.randn_like(last),
        "pairs": torch.rand(2, items).T,
        "randint": torch.randint(0, 9, (items,)),
        "dropout": F.dropout(x, 0.3),
        "dropout of channels": F.dropout2d(x, 0.5),
        "tokens": F.dropout(torch.ones(items * 6, 2), 0.5).view(items, 12),
        "normal": torch.normal(x, 2.0),
        "bernoulli": torch.bernoulli(x * 0.4),
        "in place": torch.empty(items, 2).uniform_(),
        "multinomial": torch.multinomial(torch.ones(items, 7), 2),
        "once for all": torch.rand(3).expand(items, 3),
        "after": torch.randn(items),
    }


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_draws_its_rows_of_what_one_process_draws(rank: int) -> None:
    whole = drawn(8)
    with WholeDraws(4, rank, 2):
        mine = drawn(4)
    for name, expected in whole.items():
        assert torch.equal(mine[name], expected[4 * rank : 4 * rank + 4]), name


def test_a_generator_of_ones_own_is_left_alone() -> None:
    with WholeDraws(4, 1, 2):
        mine = torch.randn(4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mine, torch.randn(4, generator=torch.Generator().manual_seed(0)))


# -- time, trouble and costs -----------------------------------------------------------------


def test_ranks_agree_on_a_budget_in_seconds(basics: dict[str, Any]) -> None:
    assert basics["clock"]


@pytest.mark.parametrize("model", ["PlainDuel", "Normed"])
def test_a_resumed_training_ends_with_the_same_bytes(basics: dict[str, Any], model: str) -> None:
    assert basics["resumed"][model]


def test_a_number_that_is_not_finite_on_one_rank_ends_all(basics: dict[str, Any]) -> None:
    first, second = basics["diverged"]
    assert first == second and first.startswith("Diverged")


def test_a_request_to_stop_on_one_rank_stops_all_at_the_same_step(basics: dict[str, Any]) -> None:
    first, second = basics["interrupted"]
    assert first == second and first.startswith("Interrupted")


def test_weights_that_drift_apart_are_no_result(basics: dict[str, Any]) -> None:
    assert [kind.split()[0] for kind in basics["drifted"]] == ["MachineError"] * 2


def test_the_loss_of_a_rank_is_told_in_one_line_at_once(basics: dict[str, Any]) -> None:
    assert basics["codes"] == [0, -signal.SIGKILL]
    assert basics["lost"].startswith("rank 0: another process") and "--resume" in basics["lost"]
    assert "\n" not in basics["lost"] and basics["seconds"] < 120


def test_costs_of_ranks_are_joined() -> None:
    own = {"peak_memory_bytes": 5, "device_memory_bytes": None}
    gpus = [own | {"energy_joules": 2.0 + i, "energy_source": "GPU, by NVML"} for i in range(2)]
    assert shared_cost(gpus)["energy_joules"] == 5
    machine = [
        own | {"energy_joules": 7.0, "energy_source": "RAPL"},
        own | {"peak_memory_bytes": 9, "energy_joules": None, "energy_source": SHARED},
    ]
    assert shared_cost(machine) == {
        "peak_memory_bytes": 9,
        "device_memory_bytes": None,
        "energy_joules": 7.0,
        "energy_source": "RAPL",
    }
    assert shared_cost([gpus[0], machine[1] | {"energy_source": None}])["energy_joules"] is None
    assert mean_sums([{"loss": (2.0, 3)}, {"loss": (4.0, 3)}]) == {"loss": (3.0, 3)}


def test_a_checkpoint_of_ranks_is_resumed_alone() -> None:
    """On another number of devices the sums since the last line are their mean."""
    data = tiny_data()
    trainer = Trainer(PlainDuel(data.spec), data.train, Budget.parse("20steps"), 0)
    with trainer.clock.running():
        trainer.step()
    tensors, state = trainer.checkpoint()
    more = {name: (total + 1, count) for name, (total, count) in state["tally"].items()}
    trainer.restore(type(trainer.checkpoint())(tensors, {**state, "tallies": [more, more]}))
    assert trainer.tally.sums() == state["tally"]


# -- the command ------------------------------------------------------------------------------

TRAIN = "train --model vae --data ring --set width=16 --set batch_size=32 --samples 300 "
TRAIN += "--no-evaluate --device cpu --threads 1"


def genzoo_process(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "genzoo_cli", *words],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err


@pytest.mark.slow
def test_the_command_trains_on_two_devices(tmp_path: Path, genzoo_says: Genzoo) -> None:
    words = [*TRAIN.split(), "--evaluate", "--budget", "40steps", "--json", "--quiet"]
    code, out, err = said(genzoo_process(*words, "--devices", "2", "--out", str(tmp_path / "two")))
    assert (code, err) == (0, "")
    assert json.loads(out)["status"]["state"] == "finished"  # and nothing of the other rank
    run = open_run(tmp_path / "two")
    assert [run.config[k] for k in ("devices", "nodes", "batch_per_device")] == [2, 1, 16]
    assert run.status["images"] == 40 * 32 and run.samples_info()["devices"] == 2  # type: ignore[index]
    assert genzoo_says(*words, "--out", str(tmp_path / "one")).code == 0
    one = open_run(tmp_path / "one")
    assert run.status["flops"] == pytest.approx(one.status["flops"])
    for mine, theirs in zip(run.history(), one.history(), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-2, abs=1e-3)
    measured = genzoo.evaluate(run).metrics["nll_nats"]
    told = run.scores()["metrics"]["nll_nats"]  # type: ignore[index]
    assert told == measured.to_dict()
    report = genzoo_says("report", tmp_path / "one", tmp_path / "two", "--out", tmp_path / "r.html")
    assert report.code == 0 and "Devices" in (tmp_path / "r.html").read_text()


SLOWLY = """
import sys
from genzoo.training import fit
from genzoo_cli.main import main
fit.CHECKPOINT_SECONDS, fit.SHOW_SECONDS = 0.0, 0.0
sys.exit(main(sys.argv[1:]))
"""


def slowly(out: Path) -> list[str]:
    words = "--budget 200steps --samples 40 --devices 2 --resume --quiet".split()
    return [*TRAIN.split(), *words, "--out", str(out)]


def started(out: Path) -> subprocess.Popen[str]:
    """A training on two ranks that saves often, once it has saved."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOWLY, *slowly(out)],
        env=environment(TORCH_CPP_LOG_LEVEL="ERROR"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 120
    while not (out / "checkpoint").exists() and process.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.02)
    return process


def other_rank(process: subprocess.Popen[str]) -> int:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True)
    return int(found.stdout.split()[0])


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="processes are found by /proc")
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_rank_ends_the_others_and_the_run_goes_on(tmp_path: Path, killed: int) -> None:
    straight = content(_train(tmp_path / "straight"))
    process = started(tmp_path / "run")
    other = other_rank(process)
    begun = time.monotonic()
    os.kill(other if killed else process.pid, signal.SIGKILL)
    code, _, err = said(process)
    while is_alive(other):
        assert time.monotonic() - begun < 30
        time.sleep(0.05)
    assert code == (4 if killed else -signal.SIGKILL)
    (line,) = err.splitlines()
    assert line.startswith(f"genzoo: error: rank {1 - killed}: another process") and "--re" in line
    if killed:
        assert open_run(tmp_path / "run").status["state"] == "failed"
    assert not open_run(tmp_path / "run").trained
    assert content(_train(tmp_path / "run")) == straight


def _train(out: Path) -> genzoo.Run:
    assert said(genzoo_process(*slowly(out)))[0] == 0
    return open_run(out)


@pytest.mark.slow
def test_ctrl_c_stops_all_ranks_and_is_told_once(tmp_path: Path) -> None:
    words = [*TRAIN.split(), "--budget", "9999steps", "--devices", "2", "--out", str(tmp_path)]
    process = genzoo_process(*words)
    until = time.monotonic() + 120
    while not (tmp_path / "history.jsonl").exists() or not open_run(tmp_path).history():
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    code, _, err = said(process)
    assert code == 130 and err.count("genzoo: error") == 1 and "--resume" in err
    assert open_run(tmp_path).status["state"] == "interrupted"


@pytest.mark.slow
@pytest.mark.parametrize("starter", ["torchrun", "SLURM", "a call on each machine"])
def test_ranks_that_are_started_from_outside(tmp_path: Path, starter: str) -> None:
    words = [*TRAIN.split(), "--budget", "10steps", "--out", str(tmp_path / "r")]
    genzoo_words, command = ["-m", "genzoo_cli", *words, "--devices", "2"], list[str]()
    meeting: dict[str, object] = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    places = [meeting]
    if starter == "torchrun":
        command = ["-m", "torch.distributed.run", "--nproc-per-node", "2"]
    elif starter == "SLURM":
        job = {"SLURM_NTASKS": 2, "SLURM_NTASKS_PER_NODE": 2, "SLURM_JOB_ID": 7777, **meeting}
        job |= {"SLURM_JOB_NAME": "run", "SLURM_NODEID": 0, "SLURM_NODELIST": "localhost"}
        places = [{**job, "SLURM_PROCID": rank, "SLURM_LOCALID": rank} for rank in range(2)]
    else:  # each of which starts a second rank
        genzoo_words += ["--nodes", "2"]
        places = [{**meeting, "NODE_RANK": rank} for rank in range(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, *command, *genzoo_words],
            env=environment(**place),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for place in places
    ]
    answers = [said(process) for process in processes]
    assert [code for code, _, _ in answers] == [0] * len(processes), answers
    assert "".join(out for _, out, _ in answers).count("vae on ring: finished") == 1
    assert open_run(tmp_path / "r").finished


# -- wrong calls ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "more, says",
    [
        ("--devices 0", "--devices"),
        ("--devices 2 --nodes 0", "--nodes"),
        ("--devices 3", "batch_size 32 of VAE cannot be shared equally among 3 devices"),
        ("--devices 2 --device mps", "--device must be cpu, cuda or auto, not 'mps'"),
        ("--devices 2 --device cuda:1", "must be cpu, cuda or auto"),
        ("--devices 1 --nodes 2", "set MASTER_ADDR, MASTER_PORT and NODE_RANK"),
    ],
)
def test_wrong_numbers_of_devices(
    genzoo_says: Genzoo, tmp_path: Path, more: str, says: str
) -> None:
    answer = genzoo_says(*TRAIN.split(), *more.split(), "--out", tmp_path / "run")
    assert answer.code == 2 and says in answer.err and answer.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_more_cuda_devices_than_there_are(genzoo_says: Genzoo, tmp_path: Path) -> None:
    words = [*TRAIN.replace("cpu", "cuda").split(), "--devices", "64", "--out", str(tmp_path / "r")]
    answer = genzoo_says(*words)
    assert answer.code == 2 and "CUDA devices" in answer.err


def test_a_class_cannot_be_found_by_another_process(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs a model by its name"):
        genzoo.train(PlainDuel, "digits", devices=2, out=tmp_path / "run")


def test_a_missing_extra_is_one_line(
    genzoo_says: Genzoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lightning_fabric", None)
    monkeypatch.delitem(sys.modules, "genzoo.training.distributed", raising=False)
    answer = genzoo_says(*TRAIN.split(), "--devices", "2", "--out", tmp_path / "run")
    assert answer.code == 2 and "pip install 'genzoo[distributed]'" in answer.err


def test_one_device_needs_no_fabric(tmp_path: Path) -> None:
    code = (
        "import sys, genzoo; genzoo.train('noise', 'ring', budget='1steps', samples=9, "
        f"evaluate=False, out={str(tmp_path / 'run')!r}); "
        "assert not any(m.startswith('lightning') for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True, timeout=120)
