"""One training on many devices: a process each, joined by Lightning Fabric and torch's DDP.

Fabric finds out where the processes come from: `torchrun` and SLURM start them all; otherwise a
call on each machine starts those of its other devices. Gradients are averaged by DDP (gloo on
CPUs, NCCL on GPUs). All else that ranks tell each other, which is a few numbers a step, goes by
gloo between the CPUs, so that no device has to be waited for.
"""

from __future__ import annotations

import logging
import os
import select
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from genzoo.errors import GenzooError, InputError, MachineError
from genzoo.machine import available_cores
from genzoo.model import GenerativeModel
from genzoo.ranks import Ranks, Wishes
from genzoo.training.device import kind_of_several
from genzoo.training.draws import WholeMinibatch

try:
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy
except ModuleNotFoundError as missing:
    raise InputError(
        f"more than one device needs {missing.name}: pip install 'genzoo[distributed]'"
    ) from missing

T = TypeVar("T")

PATIENCE_SECONDS = 1800.0
"""How long a rank waits for one that is silent; one that has ended is noticed at once."""
START_SECONDS = 300.0
PARTING_SECONDS = 20.0
SETTLE_SECONDS = 1.0
_READY = "GENZOO_READY"  # a file descriptor on which a started process says that it is there


class Team:
    """The processes of a training, before they have met.

    Attributes:
        rank: of this process among all.
        count: of processes.
        devices: on each machine.
        nodes: machines.
        device: of this process.
    """

    def __init__(self, devices: int, nodes: int, device: str) -> None:
        """Find this process's place.

        Args:
            devices: on each machine.
            nodes: machines.
            device: their kind, ``auto``, ``cpu`` or ``cuda``.

        Raises:
            InputError: there are not so many devices, or the environment says otherwise.
        """
        if hasattr(sys, "ps1"):  # where Fabric refuses processes, in many words
            raise InputError(
                f"--devices {devices} --nodes {nodes}: an interactive session cannot train on "
                "several devices; use the command line or a script"
            )
        self.devices, self.nodes, self.count = devices, nodes, devices * nodes
        kind = kind_of_several(device, devices)
        self._strategy = DDPStrategy(
            timeout=timedelta(seconds=PATIENCE_SECONDS), find_unused_parameters=True
        )
        for name in ("lightning_fabric", "lightning.fabric"):  # which announce what they do
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._fabric = Fabric(
                    accelerator=kind, strategy=self._strategy, devices=devices, num_nodes=nodes
                )
            place = self._strategy.cluster_environment
            assert place is not None
            self._place, self._external = place, place.creates_processes_externally
            place.validate_settings(num_devices=devices, num_nodes=nodes)
            self._local = place.local_rank()
            self.rank = place.node_rank() * devices + self._local
        except (ValueError, RuntimeError, KeyError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"--devices {devices} --nodes {nodes}: {reason}") from error
        if not 0 <= self._local < devices:
            raise InputError(
                f"--devices {devices}: this process is number {self._local} on its machine; "
                f"start {devices} on each"
            )
        if nodes > 1 and not self._external and "MASTER_ADDR" not in os.environ:
            raise InputError(
                f"--nodes {nodes}: outside of torchrun and SLURM, set MASTER_ADDR, MASTER_PORT and "
                "NODE_RANK on each machine and repeat this command there"
            )
        self.device = torch.device("cpu" if kind == "cpu" else f"cuda:{self._local}")

    @property
    def starts_all(self) -> bool:
        """Whether nobody but this process starts others, and it need not."""
        return not self._external and self.nodes == 1

    def threads(self, asked: int | None) -> int:
        """CPU threads of each process: an equal share of the machine's, unless told."""
        return max(1, available_cores() // self.devices) if asked is None else asked

    @contextmanager
    def joined(self, arguments: Sequence[str]) -> Iterator[Ranks]:
        """Meet the other ranks; part from them at the end.

        Args:
            arguments: of the command line that repeats this training on another rank.

        Raises:
            MachineError: another rank has ended or fallen silent.
        """
        started: list[subprocess.Popen[bytes]] = []
        with _environment_kept(), _parted(started), _losses_told(self.rank):
            if not self._external:
                self._start_others(arguments, started)
            with _starter_alive():
                self._fabric.launch()
            talk = dist.new_group(backend="gloo", timeout=timedelta(seconds=PATIENCE_SECONDS))
            yield FabricRanks(self._strategy, talk, self.rank, self.count, self._local)

    def _start_others(
        self, arguments: Sequence[str], started: list[subprocess.Popen[bytes]]
    ) -> None:
        shared = {
            "MASTER_ADDR": self._place.main_address,
            "MASTER_PORT": str(self._place.main_port),
            "NODE_RANK": str(self._place.node_rank()),
            "LOCAL_RANK": str(self._local),
            "WORLD_SIZE": str(self.count),
        }
        if "OMP_NUM_THREADS" not in os.environ:  # or Fabric would choose it, for ever
            shared["OMP_NUM_THREADS"] = str(torch.get_num_threads())
        os.environ.update(shared)
        pipes = []
        for local in range(1, self.devices):
            ears, mouth = os.pipe()
            started.append(_start(arguments, local, mouth))
            os.close(mouth)
            pipes.append(ears)
        _await_ready(pipes)


class FabricRanks(Ranks):
    """Ranks that have met."""

    def __init__(self, strategy: DDPStrategy, talk: Any, rank: int, count: int, local: int) -> None:
        """`talk` is their group between CPUs; `local` the number on this machine."""
        self.rank, self.count, self.local = rank, count, local
        self._strategy, self._talk = strategy, talk

    def entry(self, model: GenerativeModel, whole_draws: bool) -> nn.Module:
        """See `Ranks.entry`: DDP registers those parameters that require gradients now."""
        whole = WholeMinibatch(model, self.rank, self.count) if whole_draws else model
        return self._strategy.setup_module(whole)

    @contextmanager
    def adding(self, entry: nn.Module, last: bool) -> Iterator[None]:
        """See `Ranks.adding`."""
        # The model itself, which is asked what a step costs, averages nothing.
        if last or not isinstance(entry, DistributedDataParallel):
            yield
        else:
            with entry.no_sync():
                yield

    def agree(self, seconds: float, wishes: Wishes) -> tuple[float, Wishes]:
        """See `Ranks.agree`; one message."""
        mine = [seconds if self.is_first else 0.0, *map(float, wishes)]
        told = torch.tensor(mine, dtype=torch.float64)
        dist.all_reduce(told, dist.ReduceOp.MAX, group=self._talk)
        agreed, *wished = told.tolist()
        return agreed, Wishes(*map(bool, wished))

    def from_first(self, value: T) -> T:
        """See `Ranks.from_first`; anything that pickles, between processes of one training."""
        held: list[Any] = [value if self.is_first else None]
        dist.broadcast_object_list(held, src=0, group=self._talk)
        return held[0]  # type: ignore[no-any-return]

    def gathered(self, value: T) -> list[T]:
        """See `Ranks.gathered`."""
        held: list[Any] = [None] * self.count
        dist.all_gather_object(held, value, group=self._talk)
        return held

    def to_first(self, value: T) -> list[T]:
        """See `Ranks.to_first`."""
        held: list[Any] | None = [None] * self.count if self.is_first else None
        dist.gather_object(value, held, dst=0, group=self._talk)
        return held or []

    def align(self, model: nn.Module) -> None:
        """See `Ranks.align`."""
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                told = tensor.detach().contiguous()
                raw = told.view(torch.uint8) if told.dtype == torch.bool else told
                dist.broadcast(raw, src=0)
                if told.data_ptr() != tensor.data_ptr():
                    tensor.copy_(told)


def _start(arguments: Sequence[str], local: int, mouth: int) -> subprocess.Popen[bytes]:
    """A rank of this machine; what it has to say against going on, it says on our stderr."""
    environment: Mapping[str, str] = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "LOCAL_RANK": str(local),
        _READY: str(mouth),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "genzoo_cli", *arguments],
        stdin=subprocess.PIPE,  # whose end tells of ours
        stdout=subprocess.DEVNULL,
        env=environment,
        pass_fds=(mouth,),
    )


def _await_ready(pipes: Sequence[int]) -> None:
    """Wait for a byte from each process that was started; its end comes without one."""
    waiting = list(pipes)
    try:
        while waiting:
            heard, _, _ = select.select(waiting, [], [], START_SECONDS)
            if not heard or any(not os.read(pipe, 1) for pipe in heard):
                raise MachineError(
                    "a process of this training could not begin; the line before says why"
                )
            waiting = [pipe for pipe in waiting if pipe not in heard]
    finally:
        for pipe in pipes:
            os.close(pipe)


@contextmanager
def _starter_alive() -> Iterator[None]:
    """Tell the process that started this one that it is there, and do not outlive it meanwhile.

    While ranks look for each other, torch waits for minutes and hears nothing.
    """
    if (mouth := os.environ.pop(_READY, None)) is None:
        yield
        return
    os.write(int(mouth), b"!")
    os.close(int(mouth))
    met = threading.Event()

    def watch() -> None:
        os.read(0, 1)  # not sys.stdin, whose lock would be held at the end of the process
        if not met.is_set():
            os.write(2, b"genzoo: error: the process that started this rank has ended\n")
            os._exit(MachineError.exit_code)

    threading.Thread(target=watch, daemon=True).start()
    yield
    met.set()


@contextmanager
def _environment_kept() -> Iterator[None]:
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _parted(started: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Leave no group and no process behind."""
    try:
        yield
    except BaseException:
        # A GPU may be waiting for a rank that is no more, and then nothing else would end it.
        if dist.is_initialized() and dist.get_backend() == "nccl":
            with suppress(Exception):
                dist.distributed_c10d._abort_process_group()
        # Gloo's own thread needs Python's lock to let go of what it failed to send. If the group
        # were freed before, which waits for that thread with the lock held, neither would go on.
        if dist.is_initialized():
            time.sleep(SETTLE_SECONDS)
        raise
    finally:
        if dist.is_initialized():
            with suppress(RuntimeError):
                dist.destroy_process_group()
        for process in started:
            if process.stdin is not None:
                process.stdin.close()
            try:
                process.wait(PARTING_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def _losses_told(rank: int) -> Iterator[None]:
    """One line for the many ways in which the loss of a rank shows.

    Raises:
        MachineError: in the place of an error of torch's process groups.
    """
    try:
        yield
    except GenzooError:
        raise
    except RuntimeError as error:
        if not _is_loss(error):
            raise
        raise MachineError(
            f"rank {rank}: another process of this training has ended or does not answer; what "
            "was done up to the last checkpoint is saved: go on with --resume"
        ) from error


def _is_loss(error: RuntimeError) -> bool:
    if isinstance(error, dist.DistError):
        return True
    text = str(error).lower()
    return any(word in text for word in ("gloo", "connection closed", "connection reset", "nccl"))
