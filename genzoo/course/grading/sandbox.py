"""The sandbox: back ends probed in order, one process a test group, private pipes. Linux.

Every back end runs the worker with an empty environment, resource limits, Landlock and seccomp
(`genzoo.course.grading.confine`); they differ in what is put around that. A back end is used only
if a probe inside of it fails to read a secret, to reach the network by TCP and by UDP, to start a
program or a process, to signal its parent, and to write outside.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import site
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from genzoo.course.grading.protocol import Broken, Message, decode, encode
from genzoo.errors import MachineError

HERE = Path(__file__).parent
GENZOO = HERE.parents[1]
INSIDE = (
    "__init__",
    "compat",
    "errors",
    "files",
    "model",
    "noise",
    "notebook",
    "progress",
    "types",
)
"""What a submission may import of genzoo: the contract, and nothing that solves an assignment."""
INSIDE_DATA = ("__init__", "ranges", "dataset")
NOBODY = 65534
AROUND = "namespaces, Landlock, seccomp"
PATIENCE = 1.0
"""Seconds in which a worker may end by itself."""
MAX_OUTPUT = 16_384
"""Bytes of what a submission prints that are kept."""


@dataclass(frozen=True)
class Limits:
    """What a worker may use.

    Attributes:
        wall_seconds: of the whole worker; the parent kills it then.
        cpu_seconds: of the processor.
        memory_bytes: of addresses; torch alone takes 2 GB of them.
        file_bytes: of a file.
        open_files: at a time.
    """

    wall_seconds: float = 120.0
    cpu_seconds: int = 120
    memory_bytes: int = 6 << 30
    file_bytes: int = 1 << 20
    open_files: int = 256


@dataclass(frozen=True)
class Backend:
    """One way to run a worker.

    Attributes:
        name: in results.
        around: words before the worker's own command.
        uid: of the worker; ``None`` keeps it.
        landlock: whether the worker must confine its files itself.
        strength: what it adds, for the audit.
    """

    name: str
    around: Sequence[str] = ()
    uid: int | None = None
    landlock: bool = True
    strength: str = ""


def backends() -> Iterator[Backend]:
    """Those that this machine might have, strongest first."""
    if sys.platform != "linux":
        return
    bubblewrap, unshare = shutil.which("bwrap"), shutil.which("unshare")
    if bubblewrap:
        words = (
            "--unshare-all --die-with-parent --new-session --ro-bind / / --dev /dev --proc /proc"
        )
        yield Backend("bubblewrap", (bubblewrap, *words.split()), strength=AROUND)
    if unshare:
        words = "--user --map-current-user --net --pid --ipc --uts --fork --kill-child"
        yield Backend("namespaces", (unshare, *words.split()), strength=AROUND)
    if os.geteuid() == 0:
        yield Backend("uid", uid=NOBODY, strength="other user, Landlock, seccomp")
    yield Backend("landlock", strength="Landlock, seccomp")


def unsafe() -> Backend:
    """No sandbox at all, for machines that have none and instructors who know what they do."""
    return Backend("none", landlock=False, strength="none: results are marked")


def choose(tried: list[str] | None = None) -> Backend:
    """The first back end whose probe finds everything closed.

    Args:
        tried: is told why the others were not taken.

    Raises:
        MachineError: none is.
    """
    tried = [] if tried is None else tried
    for backend in backends():
        reason = probe(backend)
        if not reason:
            return backend
        tried.append(f"{backend.name}: {reason}")
    told = "; ".join(tried) or "sandboxes need Linux"
    raise MachineError(
        f"no sandbox works on this machine ({told}); grade on a recent Linux, or with "
        "--unsafe-no-sandbox, which is written into the results"
    )


def probe(backend: Backend) -> str:
    """What is open in a back end that must not be, or why it does not start; empty if good."""
    secret = tempfile.NamedTemporaryFile(prefix="genzoo-secret-", delete=False)
    secret.write(b"secret")
    secret.close()
    os.chmod(secret.name, 0o644)
    try:
        with Worker(backend, None, None, Limits(wall_seconds=20)) as worker:
            header, _ = worker.ask({"op": "probe", "secret": secret.name, "parent": os.getpid()})
    except Broken as error:
        return str(error)
    finally:
        os.unlink(secret.name)
    found = header.get("open")
    if not isinstance(found, list):
        return "the probe gave no answer"
    return f"open inside: {', '.join(map(str, found))}" if found else ""


class Worker:
    """A sandboxed process that serves one submission, until it is closed."""

    def __init__(
        self, backend: Backend, submission: Path | None, adapter: Path | None, limits: Limits
    ) -> None:
        """Start it.

        Args:
            backend: around it.
            submission: the folder with ``submission/``; copied, so that nothing else is seen.
            adapter: the bundle's ``hidden/inside.py``, which calls the student's functions; without
                one the worker tries the doors.
            limits: of what it may use.
        """
        self.backend, self.limits = backend, limits
        self.begun = time.monotonic()
        self.output = b""
        self.used: dict[str, Any] = {}
        self._box = Path(tempfile.mkdtemp(prefix="genzoo-grade-"))
        os.chmod(self._box, 0o755)
        _fill(self._box, submission, adapter)
        requests, self._send = os.pipe()
        self._receive, answers = os.pipe()
        spec = {
            "box": str(self._box),
            "probe": adapter is None,
            "requests": requests,
            "answers": answers,
            "paths": _libraries(),
            "readable": [*_readable(), str(self._box)],
            "listable": _libraries(),
            "landlock": backend.landlock,
            "seccomp": backend.name != "none",
            "uid": backend.uid,
            "limits": {k: v for k, v in asdict(limits).items() if k != "wall_seconds"},
        }
        script = self._box / "library" / "genzoo" / "course" / "grading" / "worker.py"
        command = [*backend.around, sys.executable, "-I", "-S", str(script), json.dumps(spec)]
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                env=ENVIRONMENT, cwd="/", pass_fds=(requests, answers), close_fds=True,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            self._clean()
            raise Broken(f"it does not start: {error}") from error
        finally:
            os.close(requests)
            os.close(answers)
        os.set_blocking(self._receive, False)
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)

    def __enter__(self) -> Worker:
        """Serve."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Kill it, with all that it started."""
        self.close()

    def ask(
        self, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None
    ) -> Message:
        """Send a request and wait for its answer.

        Raises:
            Broken: the worker ended, took too long, or answered with something else.
        """
        self.tell(header, arrays)
        return self.hear()

    def tell(
        self, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None
    ) -> None:
        """Send a frame."""
        data = memoryview(encode(header, arrays))
        os.set_blocking(self._send, False)
        with selectors.DefaultSelector() as selector:
            selector.register(self._send, selectors.EVENT_WRITE)
            while data:
                if not selector.select(self._left()):
                    raise Broken(self._why("it does not read its requests"))
                try:
                    data = data[os.write(self._send, data) :]
                except BrokenPipeError:
                    raise Broken(self._why("it ended")) from None

    def hear(self) -> Message:
        """Wait for a frame."""
        return decode(self._read)

    def _read(self, size: int) -> bytes:
        parts, missing = [], size
        assert self._process.stdout is not None
        printed = self._process.stdout.fileno()
        with selectors.DefaultSelector() as selector:
            selector.register(self._receive, selectors.EVENT_READ)
            selector.register(printed, selectors.EVENT_READ)
            while missing:
                ready = selector.select(self._left())
                if not ready:
                    raise Broken(self._why("it takes too long"))
                for key, _ in ready:
                    if key.fd == printed:
                        if not self._drain():
                            selector.unregister(printed)
                        continue
                    part = os.read(self._receive, min(missing, 1 << 20))
                    if not part:
                        raise Broken(self._why("it ended without an answer"))
                    parts.append(part)
                    missing -= len(part)
        return b"".join(parts)

    def _drain(self) -> bool:
        """Take what it printed, keep the beginning; whether more may come."""
        assert self._process.stdout is not None
        with contextlib.suppress(BlockingIOError):
            part = os.read(self._process.stdout.fileno(), 1 << 16)
            self.output = (self.output + part)[:MAX_OUTPUT]
            return bool(part)
        return True

    def _left(self) -> float:
        left = self.begun + self.limits.wall_seconds - time.monotonic()
        if left <= 0:
            raise Broken(self._why("it takes too long"))
        return left

    def _why(self, what: str) -> str:
        """What happened, with how the process ended."""
        code = self._exit_code(1.0 if what.startswith("it ended") else 0.0)
        with contextlib.suppress(OSError):
            self._drain()
        if code is None or code == 0:
            return what
        ended = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"{what} ({ended})"

    def close(self) -> None:
        """End it, with all that it started; harmless if done already.

        It may end by itself for a moment, so that what it has used is known; then it is killed.
        """
        if not self.used:
            alive = _usage(self._process.pid)
            os.close(self._send)  # no more requests
            self.used = {**self._reaped(), **alive}
            os.close(self._receive)
            if self._process.stdout is not None:
                self._process.stdout.close()
        self._clean()

    def _exit_code(self, patience: float) -> int | None:
        """How it ended, if it does within some seconds; it stays to be waited for."""
        until = time.monotonic() + patience
        options = os.WEXITED | os.WNOWAIT | os.WNOHANG
        while True:
            found = os.waitid(os.P_PID, self._process.pid, options)
            if found is not None:
                by_signal = found.si_code != os.CLD_EXITED
                return -found.si_status if by_signal else found.si_status
            if time.monotonic() >= until:
                return None
            time.sleep(0.01)

    def _reaped(self) -> dict[str, Any]:
        """Wait a moment, kill the group, and say what was used and how it ended."""
        code, pid = self._exit_code(PATIENCE), self._process.pid
        # Before it is waited for: afterwards the number may be somebody else's.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
        _, status, usage = os.wait4(pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        return {
            "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
            "peak_megabytes": round(usage.ru_maxrss / 1024),
            "ended": "killed by the grader" if code is None else "by itself",
            "exit_code": self._process.returncode,
        }

    def _clean(self) -> None:
        shutil.rmtree(self._box, ignore_errors=True)


def _usage(pid: int) -> dict[str, float]:
    """Seconds of the processor and highest resident memory of a process and all below it.

    Programs that put a sandbox around a worker do not pass on what it has used.
    """
    seconds, highest, todo = 0.0, 0, [pid]
    with contextlib.suppress(OSError, ValueError, IndexError):
        while todo:
            place = Path(f"/proc/{todo.pop()}")
            fields = (place / "stat").read_text().rsplit(")", 1)[1].split()
            seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            status = (place / "status").read_text()
            highest = max(highest, int(status.split("VmHWM:")[1].split()[0]))
            todo += map(int, (place / "task" / place.name / "children").read_text().split())
    return (
        {"cpu_seconds": round(seconds, 2), "peak_megabytes": round(highest / 1024)}
        if highest
        else {}
    )


ENVIRONMENT = {
    "PATH": "/nonexistent",
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}
"""Of the worker: nothing of the grader's own."""


def _fill(box: Path, submission: Path | None, adapter: Path | None) -> None:
    """The stripped library, the adapter, and a copy of the submission's Python files."""
    library = box / "library" / "genzoo"
    for name in INSIDE:
        _copy(GENZOO / f"{name}.py", library / f"{name}.py")
    for name in INSIDE_DATA:
        _copy(GENZOO / "data" / f"{name}.py", library / "data" / f"{name}.py")
    for name in ("protocol", "confine", "worker", "inside"):
        _copy(HERE / f"{name}.py", library / "course" / "grading" / f"{name}.py")
    for place in (library / "course", library / "course" / "grading"):
        (place / "__init__.py").write_text("")
    if adapter is not None:
        _copy(adapter, box / "inside.py")
    (box / "submission").mkdir()
    (box / "tmp").mkdir()
    if submission is not None:
        for path in sorted((submission / "submission").glob("*.py")):
            if path.is_file() and not path.is_symlink():
                _copy(path, box / "submission" / path.name)
    for path in box.rglob("*"):
        os.chmod(path, 0o755 if path.is_dir() else 0o644)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())


def _libraries() -> list[str]:
    """Where installed packages lie; their names may be listed."""
    found = [
        *site.getsitepackages(),
        sysconfig.get_paths()["purelib"],
        sysconfig.get_paths()["platlib"],
    ]
    return list(dict.fromkeys(path for path in found if os.path.isdir(path)))


def _readable() -> list[str]:
    """The interpreter, the libraries without genzoo, and what the system's loader needs."""
    paths = sysconfig.get_paths()
    found = [paths["stdlib"], paths["platstdlib"], os.path.realpath(sys.executable), sys.executable]
    found += [
        os.path.join(sys.base_prefix, "lib"),
        "/usr/lib",
        "/lib",
        "/lib64",
        "/etc/ld.so.cache",
    ]
    found += [
        "/proc/cpuinfo",
        "/proc/meminfo",
        "/sys/devices/system/cpu",
        "/dev/null",
        "/dev/urandom",
    ]
    kept = []
    for folder in _libraries():
        kept += [
            os.path.join(folder, name)
            for name in sorted(os.listdir(folder))
            if "genzoo" not in name.lower() and not name.endswith(".pth")
        ]
    # A library folder inside of the interpreter's would be readable as a whole, genzoo included.
    inside = tuple(folder + os.sep for folder in _libraries())
    outer = [
        p
        for p in found
        if not any(folder.startswith(p.rstrip(os.sep) + os.sep) for folder in inside)
    ]
    split = [p for p in found if p not in outer]
    for path in split:
        outer += _around(path, _libraries())
    return list(dict.fromkeys(path for path in outer + kept if os.path.exists(path)))


def _around(path: str, without: Sequence[str]) -> list[str]:
    """What lies in a folder, but for some folders below it."""
    if path in without:
        return []
    if not any(other.startswith(path.rstrip(os.sep) + os.sep) for other in without):
        return [path]
    found = []
    for name in sorted(os.listdir(path)):
        found += _around(os.path.join(path, name), without)
    return found
