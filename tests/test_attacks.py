"""Hand-ins that want points, secrets or the machine: none gets any, on every back end.

An attack prints OWNED when it has got what it wanted; the audit keeps what was printed.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
import traceback
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_assignment import SOLUTION, write_bundle

from genzoo import course
from genzoo.course.grading import sandbox
from genzoo.course.grading.grade import Desk, _grade_one, _parts, grade
from genzoo.course.grading.judge import Session
from genzoo.course.grading.results import Grade
from genzoo.course.grading.rubric import Rubric, read_rubric
from genzoo.course.grading.sandbox import Limits
from genzoo.course.kit import ASSIGNMENTS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sandboxes need Linux")
QUICK = Limits(wall_seconds=60, cpu_seconds=30)
SHORT = Limits(wall_seconds=8, cpu_seconds=5, memory_bytes=4 << 30)

FORGE = """
import json, os, struct
def frame(header, data=b""):
    head = json.dumps(header).encode()
    return struct.pack(">I", len(head)) + head + data
answer = frame({"ok": True, "arrays": [["0", "float64", [40]]]}, bytes(320))
"""
FORGERS = {
    "ends quietly": "import os; os._exit(0)",
    "ends as if all were well": "import sys; sys.exit(0)",
    "raises what nobody catches": "raise KeyboardInterrupt",
    "forges answers": FORGE
    + """
for fd in range(3, 64):
    try:
        os.write(fd, answer * 50)
    except OSError:
        pass
""",
    "forges answers and ends": FORGE
    + """
for fd in range(3, 64):
    try:
        os.write(fd, answer * 3)
    except OSError:
        pass
os._exit(0)
""",
    "answers with more than was asked for": FORGE
    + """
two = frame({"ok": True, "arrays": [["0", "float64", []], ["1", "uint8", [3]]]}, bytes(11))
for fd in range(3, 64):
    try:
        os.write(fd, two * 50)
    except OSError:
        pass
""",
    "forges a result": FORGE
    + """
for fd in range(1, 64):
    try:
        os.write(fd, frame({"score": 1e9, "max_score": 1, "points": 100, "arrays": []}))
    except OSError:
        pass
""",
    "sends a header without an end": """
import os
for fd in range(3, 64):
    try:
        os.write(fd, b'\xff\xff\xff\xff' + b'x' * 9999)
    except OSError:
        pass
""",
    "sends deep json": """
import os, struct
text = b'[' * 500000
for fd in range(3, 64):
    try:
        os.write(fd, struct.pack('>I', len(text)) + text)
    except OSError:
        pass
""",
    "asks without an end": FORGE
    + """
while True:
    for fd in range(3, 64):
        try:
            os.write(fd, frame({"oracle": True, "arrays": []}) * 100)
        except OSError:
            pass
""",
    "patches what answers": """
import sys, numpy
for name, module in list(sys.modules.items()):
    if "grading" in name or name == "__main__":
        for key in list(vars(module)):
            if callable(getattr(module, key)):
                setattr(module, key, lambda *a, **k: {"0": numpy.zeros(40)})
""",
    "patches json, struct, time and torch": """
import json, struct, time, torch
json.dumps = lambda *a, **k: '{"ok": true, "arrays": []}'
struct.pack = lambda *a: b"0000"
time.monotonic = lambda: -1e9
torch.allclose = torch.equal = lambda *a, **k: True
torch.Tensor.__eq__ = lambda *a: torch.ones(1).bool()
""",
    "patches assertions and numpy": """
import builtins, numpy, unittest
builtins.AssertionError = type("Fine", (Exception,), {})
numpy.abs = numpy.isfinite = lambda *a, **k: numpy.zeros(1)
numpy.testing.assert_allclose = lambda *a, **k: None
""",
    "answers with objects": """
class Evil:
    def __getattr__(self, name): return self
    def __call__(self, *a, **k): return self
    def __array__(self, *a, **k): raise SystemExit(0)
    def __float__(self): return 1.0
def __getattr__(name): return Evil()
""",
    "answers with equal to everything": """
class Equal(float):
    __eq__ = __le__ = __ge__ = __lt__ = __gt__ = lambda self, other: True
    def __sub__(self, other): return Equal(0)
def __getattr__(name):
    if name.startswith("__"): raise AttributeError(name)
    return lambda *a, **k: Equal(0)
""",
    "answers with nothing finite": """
import torch
def f(x): return torch.from_numpy(x) * float("nan")
""",
    "answers with a flood": """
import torch
def f(x): return torch.zeros(100_000_000)
""",
    "answers late, from another thread": FORGE
    + """
import threading, time
def later():
    for _ in range(100):
        for fd in range(3, 64):
            try:
                os.write(fd, answer)
            except OSError:
                pass
        time.sleep(0.01)
threading.Thread(target=later, daemon=True).start()
""",
    "answers at the end": FORGE
    + """
import atexit, gc
def bye(*a):
    for fd in range(3, 64):
        try:
            os.write(fd, answer * 9)
        except OSError:
            pass
atexit.register(bye)
class Gone:
    __del__ = bye
Gone()
raise SystemExit(0)
""",
    "brings a pickle": """
import pickle, os
class Evil:
    def __reduce__(self): return (print, ("OWNED by its own pickle",))
def __getattr__(name):
    if name.startswith("__"): raise AttributeError(name)
    return pickle.dumps(Evil())
""",
    "takes the library's solution": """
from genzoo.course.assignments.flow import KIT
print('OWNED')
""",
    "takes the library's models": "from genzoo.models import coupling_flows\nprint('OWNED')",
    "takes the challenges": "from genzoo.course.grading import judge\nprint('OWNED')",
    "looks for the challenges in memory": """
import gc
for thing in gc.get_objects():
    if getattr(thing, "__module__", "") == "hidden_challenges":
        print("OWNED", thing)
raise SystemExit(0)
""",
}
"""For points: at least what they print or raise costs them everything."""

TRIED = """
import ctypes, glob, os, signal, socket, struct, subprocess, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def call(*a):
    return libc.syscall(*a) >= 0 and "done"
blank = ctypes.create_string_buffer(256)
def tried(name):
    def run(door):
        try:
            found = door()
        except BaseException as error:
            return
        if found is not False:
            print("OWNED", name, repr(found)[:80], flush=True)
    return run
"""
DOORS = {
    "reads the bundle": "open({bundle!r}).read()",
    "lists the bundle": "os.listdir(os.path.dirname({bundle!r}))",
    "reads another hand-in": "open({other!r}).read()",
    "reads other boxes": "[open(p) for p in glob.glob('/tmp/genzoo-*/*')] or False",
    "reads the password file": "open('/etc/passwd').read()",
    "reads the home": "os.listdir({home!r})",
    "reads the parent's environment": "open('/proc/{parent}/environ').read()",
    "reads the parent's memory": "open('/proc/{parent}/mem', 'rb')",
    "reads the parent's files": "os.listdir('/proc/{parent}/fd')",
    "reads the first process": "open('/proc/1/environ').read()",
    "reads the library": "open({library!r}).read()",
    "finds a secret in the environment": "os.environ['GENZOO_TEST_SECRET']",
    "writes a file": "open('/tmp/genzoo-owned', 'w').write('x')",
    "writes here": "open('owned', 'w').write('x')",
    "writes into its box": "open(os.path.join(os.path.dirname(__file__), 'owned'), 'w').write('x')",
    "writes shared memory": "open('/dev/shm/genzoo-owned', 'w').write('x')",
    "fills memory files": "os.memfd_create('x')",
    "writes results": "open({results!r}, 'w').write('x')",
    "makes a link": "os.symlink('/etc/passwd', '/tmp/genzoo-owned')",
    "makes a hard link": "os.link(__file__, '/tmp/genzoo-owned')",
    "makes a folder": "os.mkdir('/tmp/genzoo-owned')",
    "goes to the network": "socket.create_connection(('127.0.0.1', {port}), 1)",
    "opens TCP": "socket.socket(socket.AF_INET, socket.SOCK_STREAM)",
    "opens UDP": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "asks a name server": "socket.getaddrinfo('example.org', 80)",
    "opens a raw socket": "socket.socket(socket.AF_PACKET, socket.SOCK_RAW)",
    "opens a unix socket": "socket.socket(socket.AF_UNIX).connect({unix!r})",
    "opens an abstract socket": "socket.socket(socket.AF_UNIX).connect('\\0' + {abstract!r})",
    "opens netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "starts a program": "subprocess.run(['/bin/true'])",
    "runs a shell": "os.system('true') == 0 or False",
    "replaces itself": "os.execv(sys.executable, [sys.executable, '-c', 'print(\"OWNED\")'])",
    "forks": "os.fork()",
    "forks twice and waits": "os.fork() or os.setsid() or os.fork()",
    "clones": "call(56, 17, 0, 0, 0, 0)",
    "kills the grader": "os.kill({parent}, 9)",
    "stops the grader": "os.kill({parent}, signal.SIGSTOP)",
    "asks whether the grader lives": "os.kill({parent}, 0)",
    "kills everybody": "os.kill(-1, 9)",
    "kills by a handle": "signal.pidfd_send_signal(os.pidfd_open({parent}), 9)",
    "traces the grader": "libc.ptrace(16, {parent}, 0, 0) == 0 or False",
    "reads by process_vm_readv": "call(310, {parent}, 0, 0, 0, 0, 0)",
    "uses io_uring": "call(425, 8, blank)",
    "loads a kernel program": "call(321, 0, 0, 0)",
    "makes namespaces": "libc.unshare(0x10000000) == 0 or False",
    "mounts": "libc.mount(b'x', b'/tmp', b'tmpfs', 0, None) == 0 or False",
    "changes its root": "os.chroot('/')",
    "becomes root": "os.setuid(0)",
    "raises its limits": "call(160, 0, bytes([255]) * 16)",
    "takes more processors": "os.sched_setaffinity(0, range(999))",
    "uses the keyring": "call(250, 0, -3, 0)",
    "opens a file by its handle": "call(304, -100, blank, 0)",
    "shares memory": "call(29, 1, 4096, 0o1600)",
    "signals by a queue": "call(129, {parent}, 9, blank)",
    "sets the clock": "time.clock_settime(time.CLOCK_REALTIME, time.time())",
    "takes capabilities": "call(126, struct.pack('=Ii', 0x20080522, 0), bytes([255]) * 24)",
    "changes priorities": "os.setpriority(os.PRIO_PROCESS, {parent}, 19)",
    "opens a device": "open('/dev/mem', 'rb')",
    "reads the kernel's log": "libc.klogctl(10, None, 0) >= 0 or False",
}
"""For secrets and the machine: expressions that must fail or be false."""

STOPPED = {
    "loops": "while True: pass",
    "sleeps": "import time; time.sleep(1000)",
    "resets the alarm and loops": """
import signal
signal.alarm(0)
signal.setitimer(signal.ITIMER_REAL, 0)
for s in range(1, 65):
    try:
        signal.signal(s, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True:
    pass
""",
    "waits in C": "import threading; lock = threading.Lock(); lock.acquire(); lock.acquire()",
    "floods the output": "while True: print('x' * 100000)",
    "takes all memory": "x = [bytearray(1 << 28) for _ in range(100)]",
    "maps all memory": "import mmap\nx = [mmap.mmap(-1, 1 << 30) for _ in range(100)]",
    "starts threads": """
import threading, time
while True: threading.Thread(target=time.sleep, args=(99,)).start()
""",
    "opens files": "x = [open(__file__) for _ in range(100000)]",
    "recurses": "import sys; sys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
    "breaks the interpreter": "import ctypes; ctypes.string_at(0)",
    "computes a huge number": "x = 10 ** 10 ** 9",
}
"""Against time and memory: they end, one way or another, and the grader goes on."""


@pytest.fixture(scope="module")
def two_tests(tmp_path_factory: pytest.TempPathFactory) -> Rubric:
    """Both tests."""
    return read_rubric(write_bundle(tmp_path_factory.mktemp("attacks") / "instructor"))


@pytest.fixture(scope="module")
def rubric(two_tests: Rubric) -> Rubric:
    """The first test alone."""
    return replace(two_tests, tests=two_tests.tests[:1])


def attack(rubric: Rubric, place: Path, text: str, limits: Limits = QUICK) -> tuple[Grade, str]:
    """Its grade, and all that the instructor is told."""
    hand_in = place / "eve"
    (hand_in / "submission").mkdir(parents=True)
    (hand_in / "submission/model.py").write_text(text)
    (found,) = grade([hand_in], rubric, place / "out", seed=7, limits=limits)
    told = json.loads((place / "out/eve/audit.json").read_text())
    assert told["finished"], "the grader went on to the end"
    return found, json.dumps(told)


@pytest.mark.parametrize("name", FORGERS)
def test_a_forger_gets_no_points(name: str, rubric: Rubric, tmp_path: Path) -> None:
    limits = SHORT if "without an end" in name else QUICK
    found, told = attack(rubric, tmp_path, FORGERS[name], limits)
    assert found.score == 0 and found.max_score == 20
    assert "OWNED" not in told


@pytest.mark.slow
@pytest.mark.parametrize("name", STOPPED)
def test_what_has_no_end_is_ended(name: str, rubric: Rubric, tmp_path: Path) -> None:
    begun = time.monotonic()
    found, _ = attack(rubric, tmp_path, STOPPED[name], SHORT)
    assert found.score == 0 and time.monotonic() - begun < 30
    assert len((tmp_path / "out/eve/audit.json").read_bytes()) < 50_000


@pytest.fixture
def bait(tmp_path: Path, rubric: Rubric) -> Iterator[dict[str, object]]:
    """Things that an attacker would like to reach, all of them really there."""
    other = tmp_path / "other" / "model.py"
    other.parent.mkdir()
    other.write_text("answers = 42")
    other.chmod(0o644)
    tcp, unix, abstract = (
        socket.socket(),
        socket.socket(socket.AF_UNIX),
        socket.socket(socket.AF_UNIX),
    )
    tcp.bind(("127.0.0.1", 0))
    name = f"genzoo-{os.getpid()}"
    path = f"/tmp/{name}.sock"
    unix.bind(path)
    abstract.bind(f"\0{name}")
    for listening in (tcp, unix, abstract):
        listening.listen()
    yield {
        "bundle": str(rubric.bundle / "rubric.toml"),
        "other": str(other),
        "home": os.path.expanduser("~"),
        "parent": os.getpid(),
        "library": str(Path(course.__file__).with_name("kit.py")),
        "results": str(tmp_path / "out/eve/results.json"),
        "port": tcp.getsockname()[1],
        "unix": path,
        "abstract": name,
    }
    for listening in (tcp, unix, abstract):
        listening.close()
    os.unlink(path)


def every_door(bait: dict[str, object]) -> str:
    """A file that tries them all and then has nothing that is asked for."""
    code = TRIED
    for name, door in DOORS.items():
        for word, value in bait.items():
            door = door.replace(f"{{{word}!r}}", repr(value)).replace(f"{{{word}}}", str(value))
        code += f"tried({name!r})(lambda: {door})\n"
    return code + "print('tried all', flush=True)\n"


NAMES = ("bubblewrap", "namespaces", "uid", "landlock")


def backend_of(name: str) -> sandbox.Backend:
    """A back end, or a reason to skip."""
    for backend in sandbox.backends():
        if backend.name == name:
            reason = sandbox.probe(backend)
            if reason:
                pytest.skip(f"{name} does not work here: {reason}")
            return backend
    pytest.skip(f"{name} is not on this machine")


@pytest.mark.parametrize("name", NAMES)
def test_no_door_is_open(
    name: str,
    rubric: Rubric,
    bait: dict[str, object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GENZOO_TEST_SECRET", "secret")
    hand_in = tmp_path / "eve"
    (hand_in / "submission").mkdir(parents=True)
    (hand_in / "submission/model.py").write_text(every_door(bait))
    desk = Desk(rubric, tmp_path / "out", 7, backend_of(name), QUICK)
    found = _grade_one("eve", hand_in, desk)
    printed = json.loads((tmp_path / "out/eve/audit.json").read_text())["tests"][0]["printed"]
    assert "OWNED" not in printed and "tried all" in printed
    assert found.score == 0
    assert (
        not list(Path("/tmp").glob("genzoo-owned*")) and not Path("/dev/shm/genzoo-owned").exists()
    )


def test_the_doors_are_doors(
    rubric: Rubric, bait: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a sandbox many of them open, so that the test above can fail."""
    monkeypatch.setenv("GENZOO_TEST_SECRET", "secret")
    harmless = {
        name: door
        for name, door in DOORS.items()
        if name.startswith(("reads the bundle", "lists the b", "reads an", "opens", "makes a link"))
        or name in ("goes to the network", "starts a program", "asks whether the grader lives")
    }
    hand_in = tmp_path / "eve"
    (hand_in / "submission").mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(sys.modules[__name__], "DOORS", harmless)
        (hand_in / "submission/model.py").write_text(every_door(bait))
    _grade_one("eve", hand_in, Desk(rubric, tmp_path / "out", 7, sandbox.unsafe(), QUICK))
    printed = json.loads((tmp_path / "out/eve/audit.json").read_text())["tests"][0]["printed"]
    Path("/tmp/genzoo-owned").unlink(missing_ok=True)
    opened = {name for name in harmless if f"OWNED {name}" in printed}
    assert {
        "reads the bundle", "reads another hand-in", "goes to the network", "opens UDP",
        "opens a unix socket", "opens an abstract socket", "starts a program", "makes a link",
    } <= opened  # fmt: skip


def test_files_that_python_runs_by_itself_are_left_behind(rubric: Rubric, tmp_path: Path) -> None:
    """A zip with more than may be in it: nothing else is unpacked, imported or followed."""
    solution = (rubric.bundle / "solution/submission/model.py").read_text()
    evil = "import os; print('OWNED', flush=True); os._exit(0)\n"
    with zipfile.ZipFile(tmp_path / "eve.zip", "w") as archive:
        archive.writestr("submission/model.py", solution)
        archive.writestr("submission/__init__.py", "")
        for name in (
            "conftest.py", "sitecustomize.py", "usercustomize.py", "evil.pth", "torch.py",
            "submission/conftest.py", "submission/torch.py", "submission/json.py", "numpy.py",
            "genzoo/__init__.py", "results.json", "submission/model.pt", "../../up.py",
        ):  # fmt: skip
            archive.writestr(name, evil)
    (found,) = grade([tmp_path / "eve.zip"], rubric, tmp_path / "out", seed=1)
    assert found.score == 20 and "OWNED" not in (tmp_path / "out/eve/audit.json").read_text()
    assert not list(tmp_path.parent.glob("up.py"))


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_no_form_of_an_answer_ends_the_class(name: str, tmp_path: Path) -> None:
    """Numbers, empty arrays and too many of them where arrays of a shape are asked for."""
    course.new(tmp_path / "week", name)
    rubric = read_rubric(tmp_path / "week/instructor")

    class Liar:
        """Answers at once, with everything that a frame can carry."""

        def __init__(self, values: dict[str, np.ndarray]) -> None:
            self.values = values

        def ask(self, header: object, arrays: object = None) -> tuple[dict[str, object], object]:
            return {"ok": True}, self.values

    answers: list[dict[str, np.ndarray]] = [
        {"0": np.array(1.0)},
        {"0": np.zeros(0)},
        {"0": np.zeros((1, 2, 3)), "1": np.array(7)},
        {"0": np.zeros(3, np.uint8), "1": np.zeros(3), "2": np.zeros(3), "x": np.zeros(3)},
        {"0": np.full((800, 1, 8, 8), np.nan)},
    ]
    for values in answers:
        worker: Any = Liar(values)
        for test, _, _ in rubric.tests:
            random = np.random.default_rng(1)
            session = Session(worker, random, rubric.choices, rubric.thresholds)
            found = list(_parts(rubric.challenges[test], session))
            assert all(share == 0 for share, _ in found), (test, values, found)


def test_the_next_student_is_unharmed(rubric: Rubric, tmp_path: Path) -> None:
    """Bad hand-ins before, beside and after a good one change nothing of its grade."""
    solution = (rubric.bundle / "solution/submission/model.py").read_text()
    people = {
        "ada": solution,
        "eve": FORGERS["forges answers"],
        "mal": FORGERS["answers late, from another thread"],
        "zoe": solution,
    }
    for name, text in people.items():
        (tmp_path / name / "submission").mkdir(parents=True)
        (tmp_path / name / "submission/model.py").write_text(text)
    found = grade([tmp_path / n for n in people], rubric, tmp_path / "out", seed=1, jobs=2)
    assert [g.score for g in found] == [20, 0, 0, 20]
    alone = grade([tmp_path / "zoe"], rubric, tmp_path / "alone", seed=1)
    assert alone[0].to_dict() == found[3].to_dict()
    left = [p for p in Path("/tmp").glob("genzoo-grade-*") if p.stat().st_mtime > time.time() - 5]
    assert threading.active_count() < 20 and len(left) < 3


def test_good_work_is_kept_and_what_is_broken_stays_broken(
    two_tests: Rubric, tmp_path: Path
) -> None:
    """Of one file: what a test earns the next cannot spoil."""
    evil = SOLUTION.replace("return x - 1", "import os; os._exit(0)")
    found, _ = attack(two_tests, tmp_path, evil)
    assert [(t.name, t.score) for t in found.tests] == [("square", 20.0), ("less", 0.0)]
    assert "SIG" not in found.tests[1].output and "no answer" in found.tests[1].output


def readable_by_all(path: Path) -> bool:
    """Whether another user can get there."""
    return all(parent.stat().st_mode & 0o001 for parent in (path, *path.parents))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
@pytest.mark.skipif(
    not readable_by_all(Path(sys.executable).resolve()),
    reason="this interpreter lies where other users cannot read it",
)
def test_an_ordinary_user_can_grade(rubric: Rubric) -> None:
    """As nobody, with what is left of the back ends."""
    # Not below pytest's folder, which the next session closes to others again.
    place = Path(tempfile.mkdtemp(prefix="genzoo-ordinary-"))
    place.chmod(0o755)
    bundle = Path(shutil.copytree(rubric.bundle, place / "bundle"))
    bundle.chmod(0o755)
    solution = bundle / "solution"
    out = place / "out"
    out.mkdir()
    os.chown(out, sandbox.NOBODY, sandbox.NOBODY)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(sandbox.NOBODY)
            os.setuid(sandbox.NOBODY)
            os.environ["HOME"] = "/nonexistent"
            mine = replace(rubric, bundle=bundle)
            works = [b for b in sandbox.backends() if not sandbox.probe(b)]
            for backend in works:
                desk = Desk(mine, out / backend.name, 7, backend, QUICK)
                assert _grade_one("ada", solution, desk).score == 20
            code = 0 if len(works) >= 2 else 2
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    shutil.rmtree(place)
    assert os.waitstatus_to_exitcode(status) == 0
