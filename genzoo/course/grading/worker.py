"""Inside of the sandbox: confines itself, imports the submission, answers the grader's requests.

Run as a script with its description as the only argument. Nothing here knows an expected value.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any


def main() -> None:
    """Confine, then serve until the requests end."""
    spec = json.loads(sys.argv[1])
    box = Path(spec["box"])
    confine = _module("confine", Path(__file__).with_name("confine.py"))
    if spec["uid"] is not None:
        confine.become(spec["uid"])
    elif spec["seccomp"]:
        confine.drop_capabilities()
    confine.limit(spec["limits"])
    if spec["landlock"]:
        readable = [*spec["readable"], f"/proc/{os.getpid()}"]
        confine.landlock(readable, spec["listable"], [])
    if spec["seccomp"]:
        confine.seccomp()
    sys.path[:] = [str(box / "library"), *[p for p in sys.path if "site-packages" not in p]]
    sys.path += spec["paths"]
    sys.argv[:] = ["worker"]
    # Libraries ask where temporary files would go; there is no place to write at all.
    tempfile.tempdir = str(box / "tmp")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(box / "tmp")
    _serve(box, spec)
    os._exit(0)  # at once: nothing that a hand-in has left for the end is run


def _serve(box: Path, spec: dict[str, Any]) -> None:
    from genzoo.course.grading import protocol

    requests = os.fdopen(spec["requests"], "rb", buffering=0)

    def read(size: int) -> bytes:
        parts = []
        while size:
            part = requests.read(size)
            if not part:
                raise protocol.Broken("no more requests")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def answer(header: dict[str, Any], arrays: Mapping[str, Any] | None = None) -> None:
        data = memoryview(protocol.encode(header, arrays))
        while data:
            data = data[os.write(spec["answers"], data) :]

    if spec["probe"]:
        header, _ = protocol.decode(read)
        answer({"open": _open_doors(header["secret"], header["parent"])})
        return
    adapter = _module("inside", box / "inside.py")

    def oracle(arrays: Mapping[str, Any]) -> Mapping[str, Any]:
        answer({"oracle": True}, arrays)
        return protocol.decode(read)[1]

    with contextlib.suppress(protocol.Broken):
        module: ModuleType | None = None
        while True:
            header, arrays = protocol.decode(read)
            try:
                if module is None:
                    module = _submission(box / "submission")
                names = dict(vars(module))
                run = adapter.OPERATIONS.get(header["op"]) or _shared(header["op"])
                found = run(module, header, arrays, oracle)
                vars(module).update(names)  # adapters put stand-ins in the place of functions
                answer({"ok": True}, found)
            except Exception as error:
                told = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                answer({"error": told})


def _shared(operation: str) -> Any:
    """What the adapters share; it imports torch, which an assignment may do without."""
    return {"call": importlib.import_module("genzoo.course.grading.inside").call}[operation]


def _submission(folder: Path) -> ModuleType:
    """The student's file as ``submission.model``."""
    sys.path.insert(0, str(folder.parent))
    sys.modules.pop("submission", None)
    return importlib.import_module("submission.model")


def _module(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _open_doors(secret: str, parent: int) -> list[str]:
    """What can be done here that must not be possible."""
    doors: dict[str, Callable[[], object]] = {
        "reading files": lambda: open(secret, "rb").read(),
        "TCP": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
        "UDP": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "new processes": lambda: os.waitpid(os.fork() or os._exit(0), 0),
        "programs": lambda: os.posix_spawn("/bin/true", ["true"], {}),
        "signals to the grader": lambda: os.kill(parent, 0),
        "the grader's environment": lambda: open(f"/proc/{parent}/environ", "rb").read(),
        "writing files": lambda: open("/tmp/genzoo-probe", "wb"),
        "the assignments' solutions": lambda: importlib.import_module("genzoo.course.kit"),
        "the library's models": lambda: importlib.import_module("genzoo.models.flow"),
    }
    found = []
    for name, door in doors.items():
        try:
            door()
        except BaseException:  # also what a library raises to end a program
            continue
        found.append(name)
    return found


if __name__ == "__main__":
    main()
