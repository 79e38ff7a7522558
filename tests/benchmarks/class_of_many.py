"""A class is graded while the grader is killed: seconds a hand-in, nothing twice, nothing lost.

python tests/benchmarks/class_of_many.py --assignment compare --people 300 --kills 5
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from genzoo import course


def write_class(folder: Path, assignment: str, people: int) -> tuple[Path, list[Path]]:
    """A bundle, and hand-ins by turns: the solution, the starter, and every mutant."""
    course.new(folder / "week", assignment)
    instructor = folder / "week" / "instructor"
    sources = [instructor / "solution", folder / "week" / "student"]
    sources += sorted(p.parent for p in (instructor / "mutants").glob("*/check.txt"))
    hand_ins = []
    for number in range(people):
        place = folder / "hand-ins" / f"s{number:04d}"
        (place / "submission").mkdir(parents=True)
        text = (sources[number % len(sources)] / "submission/model.py").read_text()
        (place / "submission/model.py").write_text(f"{text}\n# by {number}\n")
        hand_ins.append(place)
    return instructor, hand_ins


def finished(out: Path) -> dict[str, int]:
    """When each finished grade was written, by student."""
    found = {}
    for path in out.glob("*/audit.json"):
        try:
            if json.loads(path.read_text())["finished"]:
                found[path.parent.name] = path.stat().st_mtime_ns
        except (ValueError, KeyError, OSError):
            raise SystemExit(f"{path} is damaged") from None
    return found


def main() -> None:
    """Grade with kills, then look at what is there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--assignment", default="compare")
    parser.add_argument("--people", type=int, default=300)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    told = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="genzoo-class-") as scratch:
        bundle, hand_ins = write_class(Path(scratch), told.assignment, told.people)
        out = Path(scratch) / "grades"
        command = [
            sys.executable, "-m", "genzoo_cli", "course", "grade", *map(str, hand_ins), "--quiet",
            "--bundle", str(bundle), "--out", str(out), "--jobs", str(told.jobs),
        ]  # fmt: skip
        begun, chance, again = time.monotonic(), random.Random(0), 0
        for kill in range(told.kills + 1):
            before = finished(out)
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
            if kill < told.kills:
                time.sleep(chance.uniform(10, 40))
                process.send_signal(signal.SIGKILL)
            process.wait()
            after = finished(out)
            again += sum(after.get(student) != written for student, written in before.items())
            print(
                f"{len(after)} of {told.people} after {time.monotonic() - begun:.0f} s", flush=True
            )
        seconds = [
            json.loads((out / place.name / "audit.json").read_text())["seconds"]
            for place in hand_ins
        ]
        rows = (out / "grades.csv").read_text().splitlines()
        print(
            f"{told.assignment}: {len(seconds)} hand-ins, {told.kills} kills, "
            f"{told.jobs} at a time: "
            f"median {statistics.median(seconds):.1f} s, highest {max(seconds):.1f} s a hand-in; "
            f"graded twice {again}, lost {told.people - len(finished(out))}, "
            f"rows {len(rows) - 1}"
        )


if __name__ == "__main__":
    main()
