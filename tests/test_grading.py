"""Grading untrusted work: frames, sandboxes, points, and a suite of attacks."""

from __future__ import annotations

import io
import json
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_assignment import SOLUTION, write_bundle

from genzoo import course
from genzoo.course.grading import protocol, sandbox
from genzoo.course.grading.forms import gradescope, prairielearn
from genzoo.course.grading.grade import grade
from genzoo.course.grading.handin import read_files, students
from genzoo.course.grading.protocol import Broken, decode, encode
from genzoo.course.grading.rubric import Rubric, read_rubric
from genzoo.course.grading.sandbox import Limits
from genzoo.course.kit import ASSIGNMENTS, open_kit
from genzoo.errors import InputError, MachineError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="sandboxes need Linux")
QUICK = Limits(wall_seconds=25, cpu_seconds=20)


def reader(data: bytes) -> Callable[[int], bytes]:
    stream = io.BytesIO(data)

    def read(size: int) -> bytes:
        found = stream.read(size)
        if len(found) < size:
            raise Broken("the end")
        return found

    return read


# -- frames ---------------------------------------------------------------------------------


def test_a_frame_comes_back() -> None:
    arrays = {"x": np.arange(6.0).reshape(2, 3), "n": np.array(7), "e": np.zeros((0, 4), np.uint8)}
    header, found = decode(reader(encode({"op": "f", "k": [1, None]}, arrays)))
    assert header == {"op": "f", "k": [1, None]}
    assert {k: (v.dtype, v.tolist()) for k, v in found.items()} == {
        k: (v.dtype, v.tolist()) for k, v in arrays.items()
    }


def framed(header: bytes, rest: bytes = b"") -> bytes:
    return struct.pack(">I", len(header)) + header + rest


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xff\xff\xff",
        framed(b"not json"),
        framed(b"[1]"),
        framed(b"{}"),
        framed(b'{"arrays": 3}'),
        framed(b'{"arrays": [["x", "object", [1]]]}', b"12345678"),
        framed(b'{"arrays": [["x", "float64", [-1]]]}'),
        framed(b'{"arrays": [["x", "float64", [1e3]]]}'),
        framed(b'{"arrays": [["x", "float64", [true]]]}', b"12345678"),
        framed(b'{"arrays": [["x", "float64", [99999999999]]]}'),
        framed(b'{"arrays": [["x", "float64", [2,2,2,2,2,2]]]}'),
        framed(b'{"arrays": [["x", "float64", [2]]]}', b"123"),
        framed(b'{"a": NaN, "arrays": []}'),
        framed(b"[" * 100_000),
    ],
)
def test_what_is_no_frame_is_broken(data: bytes) -> None:
    with pytest.raises(Broken):
        decode(reader(data))


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_frame_or_broken(data: bytes) -> None:
    """Whatever comes, the grader sees checked values or `Broken`, and no other exception."""
    for sent in (data, framed(data), framed(b'{"arrays": [["x", "uint8", [2]]]}', data)):
        try:
            header, arrays = decode(reader(sent))
        except Broken:
            continue
        assert isinstance(header, dict) and "arrays" not in header
        assert all(a.dtype.name in protocol.TYPES for a in arrays.values())
        again, same = decode(reader(encode(header, arrays)))
        assert again == header and list(same) == list(arrays)


def test_objects_and_floods_are_not_sent() -> None:
    with pytest.raises(Broken, match="of type object"):
        encode({}, {"x": np.array([object()])})
    with pytest.raises(Broken, match="too long"):
        encode({}, {"x": np.zeros(protocol.MAX_BYTES // 8 + 1)})


# -- sandboxes ------------------------------------------------------------------------------


def test_a_sandbox_that_works_is_found_and_closes_every_door() -> None:
    tried: list[str] = []
    backend = sandbox.choose(tried)
    assert backend.name in ("bubblewrap", "namespaces", "uid", "landlock"), tried
    assert sandbox.probe(backend) == ""


def test_the_probe_sees_open_doors() -> None:
    told = sandbox.probe(sandbox.unsafe())
    for door in ("reading files", "UDP", "new processes", "writing files", "environment"):
        assert door in told
    assert "solutions" not in told, "the worker's library has none to begin with"


def test_without_a_sandbox_nothing_is_graded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "probe", lambda backend: "the door is open")
    with pytest.raises(MachineError, match="--unsafe-no-sandbox"):
        sandbox.choose()


# -- points ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def week(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grading") / "week"
    course.new(folder, "flow")
    return folder


def hand_in(week: Path, place: Path, text: str | None = None) -> Path:
    solution = (week / "instructor/solution/submission/model.py").read_text()
    (place / "submission").mkdir(parents=True)
    (place / "submission/__init__.py").write_text("")
    (place / "submission/model.py").write_text(solution if text is None else text)
    return place


def scores(bundle: Path, place: Path, out: Path, limits: Limits = QUICK) -> dict[str, float]:
    (found,) = grade([place], bundle, out, seed=7, limits=limits)
    return {test.name: test.score for test in found.tests}


@pytest.fixture(scope="module")
def quick(week: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle without the test that trains."""
    bundle = tmp_path_factory.mktemp("quick") / "instructor"
    shutil.copytree(week / "instructor", bundle)
    text = (bundle / "rubric.toml").read_text()
    tests = text.split("[[test]]")
    (bundle / "rubric.toml").write_text(
        "[[test]]".join(part for part in tests if '"samples"' not in part)
    )
    return bundle


def test_the_solution_gets_everything_and_the_starter_nothing(
    week: Path, quick: Path, tmp_path: Path
) -> None:
    good = hand_in(week, tmp_path / "ada")
    with zipfile.ZipFile(tmp_path / "bob.zip", "w") as archive:
        archive.write(week / "student/submission/model.py", "submission/model.py")
    found = grade([good, tmp_path / "bob.zip"], quick, tmp_path / "out", seed=3)
    assert [(g.student, g.score) for g in found] == [("ada", 55.0), ("bob", 0.0)]
    table = (tmp_path / "out/grades.csv").read_text().splitlines()
    asked = "question-1,question-2,question-3,question-4"
    assert table[0] == f"student,inverse,log-det,density,automatic,{asked},late,total"
    assert table[1] == "ada,15.0,20.0,20.0,55.0,,,,,," and table[2].startswith("bob,0.0")
    told = json.loads((tmp_path / "out/ada/results.json").read_text())
    assert (told["score"], told["max_score"]) == (55.0, 55.0) and "sandbox" not in told
    before = (tmp_path / "out/ada/results.json").read_bytes()
    times = (tmp_path / "out/ada/results.json").stat().st_mtime_ns
    grade([good], quick, tmp_path / "out", seed=3)
    assert (tmp_path / "out/ada/results.json").stat().st_mtime_ns == times, "not graded again"
    grade([good], quick, tmp_path / "again", seed=3)
    assert (tmp_path / "again/ada/results.json").read_bytes() == before, "the same bytes"


@pytest.mark.slow
def test_a_training_on_fresh_data_is_graded_the_same_twice(week: Path, tmp_path: Path) -> None:
    good = hand_in(week, tmp_path / "ada")
    for out in ("one", "two"):
        (found,) = grade([good], week / "instructor", tmp_path / out, seed=3)
        assert found.score == 70.0
    first, second = (tmp_path / out / "ada/results.json" for out in ("one", "two"))
    assert first.read_bytes() == second.read_bytes()


def test_a_rubric_is_needed(tmp_path: Path, week: Path) -> None:
    with pytest.raises(InputError, match="no rubric.toml"):
        read_rubric(tmp_path)
    assert read_rubric(week / "instructor").points == 70
    shutil.copytree(week / "instructor", tmp_path / "b")
    (tmp_path / "b/hidden/inside.py").unlink()
    with pytest.raises(InputError, match="nothing for the worker"):
        read_rubric(tmp_path / "b")


def test_the_grader_imports_no_torch(week: Path) -> None:
    """Nor do the challenges of any assignment."""
    code = """
import sys
from genzoo.course.grading import grade, rubric
for path in sys.argv[1:]:
    rubric.read_rubric(path)
sys.exit('torch' in sys.modules)
"""
    bundle = str(week / "instructor")
    assert subprocess.run([sys.executable, "-c", code, bundle], check=False).returncode == 0


def without_trainings(bundle: Path) -> Rubric:
    """The tests that take no seconds."""
    rubric = read_rubric(bundle)
    whole = {h.name for h in open_kit(rubric.assignment).hidden if h.name == "samples"}
    return replace(rubric, tests=tuple(t for t in rubric.tests if t[0] not in whole))


@pytest.mark.parametrize(
    "name",
    [
        n if n in ("vae", "diffusion") else pytest.param(n, marks=pytest.mark.slow)
        for n in ASSIGNMENTS
    ],
)
def test_every_solution_gets_everything_and_every_starter_nothing(
    name: str, tmp_path: Path
) -> None:
    course.new(tmp_path / "a", name, variant=1)
    rubric = without_trainings(tmp_path / "a/instructor")
    both = [tmp_path / "a/instructor/solution", tmp_path / "a/student"]
    good, bad = grade(both, rubric, tmp_path / "out", seed=11)
    assert good.score == good.max_score == rubric.points, [t.output for t in good.tests]
    assert bad.score == 0


@pytest.mark.slow
@pytest.mark.parametrize("variant", range(2, 8))
@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_the_solution_of_every_variant_gets_everything(
    name: str, variant: int, tmp_path: Path
) -> None:
    course.new(tmp_path / "a", name, variant=variant)
    (found,) = grade(
        [tmp_path / "a/instructor/solution"], tmp_path / "a/instructor", tmp_path / "out", seed=1
    )
    assert found.score == found.max_score, [t.output for t in found.tests]


# -- a class --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of 35 points without torch."""
    return write_bundle(tmp_path_factory.mktemp("tiny") / "instructor")


def person(place: Path, text: str = SOLUTION) -> Path:
    (place / "submission").mkdir(parents=True)
    (place / "submission/model.py").write_text(text)
    return place


def test_a_class_is_taken_up_again(tiny: Path, tmp_path: Path) -> None:
    """The seed is kept, what is done is not done again, and what a person entered stays."""
    bundle = Path(shutil.copytree(tiny, tmp_path / "bundle"))
    with (bundle / "rubric.toml").open("a") as file:
        file.write('[[test]]\nkind = "manual"\nname = "question-1"\ntitle = "Why?"\npoints = 9\n')
    people = [person(tmp_path / name) for name in ("ada", "bob")]
    out = tmp_path / "out"
    grade(people, bundle, out, jobs=2)
    seed = json.loads((out / "class.json").read_text())["seed"]
    lines = (out / "grades.csv").read_text().splitlines()
    assert lines[0] == "student,square,less,automatic,question-1,late,total"
    assert lines[1] == "ada,20.0,15.0,35.0,,,"
    lines[1] = "ada,20.0,15.0,35.0,7.5,2,"
    (out / "grades.csv").write_text("\n".join(lines))
    # A kill while bob was graded: his zero is there, and no audit says that it is finished.
    audit = json.loads((out / "bob/audit.json").read_text())
    (out / "bob/audit.json").write_text(json.dumps({**audit, "finished": False}))
    before = {p: (out / p / "results.json").stat().st_mtime_ns for p in ("ada", "bob")}
    (again,) = grade([people[1]], bundle, out)
    assert again.score == 35 and json.loads((out / "class.json").read_text())["seed"] == seed
    assert (out / "ada/results.json").stat().st_mtime_ns == before["ada"]
    assert (out / "bob/results.json").stat().st_mtime_ns != before["bob"]
    lines = (out / "grades.csv").read_text().splitlines()
    assert lines[1] == "ada,20.0,15.0,35.0,7.5,2,40.5", "nobody is lost"


def test_another_threshold_is_another_grade(tiny: Path, tmp_path: Path) -> None:
    good, bundle = person(tmp_path / "ada"), Path(shutil.copytree(tiny, tmp_path / "bundle"))
    grade([good], bundle, tmp_path / "out", seed=3)
    path = bundle / "rubric.toml"
    path.write_text(path.read_text().replace("points = 20", "points = 10"))
    (found,) = grade([good], bundle, tmp_path / "out", seed=3)
    assert (found.score, found.max_score) == (25, 25)


def test_names_that_cannot_be_folders_are_told(tmp_path: Path) -> None:
    for name in (".hidden", "a\x1b[2Jb", "x" * 200):
        place = tmp_path / name
        place.mkdir()
        with pytest.raises(InputError, match="give its file a name"):
            students([place])
    for place in (tmp_path / "one/ada", tmp_path / "two/ada"):
        place.mkdir(parents=True)
    with pytest.raises(InputError, match="both of 'ada'"):
        students([tmp_path / "one/ada", tmp_path / "two/ada"])


def test_results_in_the_forms_of_other_systems(tiny: Path, tmp_path: Path) -> None:
    good, path = person(tmp_path / "ada"), tmp_path / "results" / "results.json"
    (found,) = grade([good], tiny, tmp_path / "out", form="gradescope", results=path, seed=1)
    told = json.loads(path.read_text())
    assert told == gradescope(found) and told["score"] == 35.0
    assert [t["status"] for t in told["tests"]] == ["passed"] * 2
    assert {t["output_format"] for t in told["tests"]} == {"text"}
    told = prairielearn(found)
    assert told["gradable"] and told["score"] == 1.0 and told["tests"][0]["max_points"] == 20
    with pytest.raises(InputError, match="did you mean 'gradescope'"):
        grade([good], tiny, tmp_path / "out", form="gradscope", results=path)
    with pytest.raises(InputError, match="one hand-in"):
        grade([good], tiny, tmp_path / "out", form="gradescope")


def test_a_students_words_move_no_cursor(tiny: Path, tmp_path: Path) -> None:
    said = "'\\x1b[2J\\r<script>alert(1)</script>\\u202e' + 'x' * 5000"
    eve = person(tmp_path / "eve", f"def f(x): raise ValueError({said})\n")
    (found,) = grade([eve], tiny, tmp_path / "out", seed=1)
    output = found.tests[0].output
    assert "ValueError" in output and len(output) < 600
    assert not {"\x1b", "\r", "\u202e"} & set(output)


# -- what is handed in ---------------------------------------------------------------------


def zipped(path: Path, **files: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_zips_are_not_trusted(tmp_path: Path) -> None:
    bomb = zipped(tmp_path / "bomb.zip", **{"submission/model.py": bytes(50_000_000)})
    with pytest.raises(InputError, match="larger than"):
        read_files(bomb)
    slip = zipped(tmp_path / "slip.zip", **{"../../evil.py": b"x", "submission/model.py": b"y"})
    assert read_files(slip) == {"submission/model.py": b"y"}
    many = zipped(tmp_path / "many.zip", **{f"f{i}": b"" for i in range(300)})
    with pytest.raises(InputError, match="more than 200"):
        read_files(many)
    (tmp_path / "no.zip").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(InputError, match="cannot be read"):
        read_files(tmp_path / "no.zip")
    link = zipfile.ZipInfo("submission/model.py")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(InputError, match="is a link"):
        read_files(tmp_path / "link.zip")


def test_links_in_folders_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "s/submission").mkdir(parents=True)
    (tmp_path / "s/submission/model.py").symlink_to("/etc/hostname")
    with pytest.raises(InputError, match="has no submission/model.py"):
        read_files(tmp_path / "s")


def test_a_hand_in_that_is_none_gets_zero_and_the_others_their_points(
    week: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    found = grade([tmp_path / "empty"], week / "instructor", tmp_path / "out", seed=1)
    assert found[0].score == 0 and "no submission/model.py" in found[0].tests[0].output
