"""Assignments: blanks, files, checks, packing; every solution, starter and mutant."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from genzoo import course
from genzoo.course import studio
from genzoo.course.assignment import open_assignment
from genzoo.course.blanks import MAX_LINES, emptied, find_blanks, open_blanks
from genzoo.course.kit import ASSIGNMENTS, CheckFailed, open_kit, same
from genzoo.course.writing import render
from genzoo.errors import InputError, Interrupted

VARIANTS = (0, 1, 2, 3, 4, 5)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("course") / "week"
    course.new(folder, "flow", notebook=True)
    return folder


@pytest.fixture
def student(written: Path, tmp_path: Path) -> Path:
    """A student's folder with everything filled in."""
    place = tmp_path / "student"
    shutil.copytree(written / "instructor" / "solution", place)
    return place


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "submission" / "model.py"
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")


# -- blanks ---------------------------------------------------------------------------------

MARKED = "def f():\n    # BLANK 1: one, eq. (1)\n    a = 1\n    return a\n    # END 1\n"


def test_a_blank_is_found_and_emptied() -> None:
    (blank,) = find_blanks(MARKED)
    assert (blank.number, blank.title, blank.line) == (1, "one, eq. (1)", 2)
    assert blank.lines == ("    a = 1", "    return a")
    starter = emptied(MARKED)
    assert '    raise NotImplementedError("blank 1: one, eq. (1)")\n    # END 1' in starter
    assert open_blanks(starter) == find_blanks(starter) and open_blanks(MARKED) == []
    assert emptied(MARKED, []) == MARKED


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("# BLANK 1: a\nx\n", "has no end"),
        ("# END 1\n", "ends no blank"),
        ("# BLANK 1: a\n# BLANK 2: b\n# END 2\n", "begins inside"),
        ("# BLANK 2: a\n# END 2\n", "numbered"),
    ],
)
def test_wrong_marks_are_told(text: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        find_blanks(text)


# -- every assignment -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_every_assignment_renders_in_every_variant(name: str) -> None:
    kit = open_kit(name)
    assert sum(h.points for h in kit.hidden) + sum(kit.questions.values()) == 100
    seen = set()
    for variant in range(12):
        made = render(name, kit, variant)
        seen.add(tuple(made.choices.values()))
        assert 5 <= len(made.blanks) and all(len(b.lines) <= MAX_LINES for b in made.blanks)
        assert {check.blank for check in kit.checks} == {0, *(b.number for b in made.blanks)}
        assert len(made.mutants()) >= 8
        for mutant in made.mutants():
            compile(made.mutated(mutant), mutant.name, "exec")
        files = made.student()
        compile(files["submission/model.py"], "model.py", "exec")
        for figure in kit.drawn:
            assert f"figures/{figure.name}.png" in files["report.md"]
        for blank in made.blanks:
            assert blank.title in files["README.md"]
            solved = "\n".join(["", *blank.lines, ""])
            assert solved not in files["submission/model.py"]
    assert len(seen) >= 6, "variants differ"
    named = {check.name for check in kit.checks}
    assert {m.check for m in kit.mutants} | {"learns"} == named | {"learns"}, "each check is tried"


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_every_assignment_proves_itself(name: str, tmp_path: Path) -> None:
    course.new(tmp_path / "a", name)
    found = course.validate(tmp_path / "a", seeds=2, threads=(1, 2), points=False)
    assert [(e.what, e.detail) for e in found.failed] == []


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS[1:])
@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_every_variant_proves_itself(name: str, variant: int, tmp_path: Path) -> None:
    course.new(tmp_path / "a", name, variant=variant)
    found = course.validate(tmp_path / "a", seeds=1, threads=(1,), points=False)
    assert [(e.what, e.detail) for e in found.failed] == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_every_assignment_gives_its_points_to_whom_they_belong(name: str, tmp_path: Path) -> None:
    """All for the solution, none for the starter and attacks; each mutant loses its own."""
    course.new(tmp_path / "a", name)
    found = course.validate(tmp_path / "a", seeds=1, threads=(1,), points=True)
    assert [(e.what, e.detail) for e in found.failed] == []
    told = " ".join(e.what for e in found.expectations)
    assert "mutant" in told and "gets 0 points" in told and "not validated here" not in told


@pytest.mark.slow
@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_no_check_is_a_matter_of_luck(name: str, tmp_path: Path) -> None:
    course.new(tmp_path / "a", name)
    solution = tmp_path / "a" / "instructor" / "solution"
    for seed in range(20):
        for threads in (1, 2):
            found = course.check(solution, seed=seed, threads=threads, say=None)
            assert found.complete, [str(o) for o in found.outcomes if o.status != "passed"]


# -- new ------------------------------------------------------------------------------------


def test_the_folders_have_what_each_side_needs(written: Path) -> None:
    hidden = ("challenges.py", "inside.py", "thresholds.toml")
    assert all((written / "instructor" / "hidden" / name).is_file() for name in hidden)
    names = {p.relative_to(written).as_posix() for p in written.rglob("*") if p.is_file()}
    student = {
        "README.md", "assignment.toml", "submission/__init__.py", "submission/model.py",
        "report.md", "ai_use.md", "assignment.ipynb",
    }  # fmt: skip
    assert {n for n in names if n.startswith("student/")} == {f"student/{n}" for n in student}
    assert {f"instructor/solution/{n}" for n in student - {"assignment.ipynb"}} <= names
    assert {"instructor/rubric.toml", "instructor/GUIDE.md", "instructor/hidden/README.md"} <= names
    assert "instructor/mutants/missing-log-det/submission/model.py" in names
    text = "".join((written / n).read_text() for n in names if n.startswith("student/"))
    assert "log_scale.exp() * other" not in text, "nothing of the solution is given out"


def test_a_variant_is_another_assignment(written: Path, tmp_path: Path) -> None:
    course.new(tmp_path / "b", "flow", variant=1)
    one, two = (open_assignment(f) for f in (written, tmp_path / "b"))
    assert one.choices != two.choices
    shutil.copy(
        written / "instructor/solution/submission/model.py", tmp_path / "b/student/submission"
    )
    assert not course.check(tmp_path / "b/student", say=None).complete, "last year's does not fit"


def test_new_overwrites_nothing(written: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not empty"):
        course.new(written, "flow")
    with pytest.raises(InputError, match="did you mean 'flow'"):
        course.new(tmp_path / "x", "flaw")


# -- check ----------------------------------------------------------------------------------


def test_the_starter_is_told_what_to_fill_in(
    written: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = course.check(written / "student")
    out, err = capfd.readouterr()
    assert err == "", "some graders take a line on stderr for a failure"
    assert "blank 3 is not filled in: the log-determinant, eq. (3)" in out
    assert "Not run here" in out and found.passed == 1
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_mistake_is_told_with_its_place_and_a_hint(student: Path) -> None:
    edit(student, "return log_scale\n", "return -log_scale\n")
    failed = [o for o in course.check(student, say=None).outcomes if o.status == "failed"]
    (outcome,) = failed
    assert outcome.check == "log-det" and "off by up to" in outcome.cause
    assert "blank 3" in outcome.where and "stretches" in outcome.hint
    line = int(outcome.where.split("line ")[1].split()[0])
    text = (student / "submission" / "model.py").read_text().splitlines()
    assert text[line - 1].strip().startswith("# BLANK 3")


def test_what_breaks_the_contract_alone_is_told(student: Path) -> None:
    """Right numbers, but torch's own generator is moved: no blank's check can see that."""
    edit(student, "return noise.normal(2)", "torch.rand(1); return noise.normal(2)")
    (failed,) = (o for o in course.check(student, say=None).outcomes if o.status == "failed")
    assert failed.check == "contract" and "generator" in failed.cause


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("return log_scale\n", "return log_scale[:, None]\n", "has the shape (5, 1)"),
        ("return log_scale\n", "return log_scale * float('nan')\n", "not finite"),
        ("return log_scale\n", "return 'a lot'\n", "must be a tensor, not str"),
        ("return log_scale\n", "return undefined\n", "NameError"),
        (
            "return log_scale\n",
            "import sys; sys.stderr.write('noise'); 1 / 0\n",
            "ZeroDivisionError",
        ),
        ("import torch\n", "import torhc\n", "No module named 'torhc'"),
        ("class Coupling(nn.Module):", "class Coupling(nn.Module:", "SyntaxError"),
        ("class Model(", "class Modell(", "has no 'Model'"),
    ],
)
def test_whatever_is_wrong_is_one_line(
    student: Path, capfd: pytest.CaptureFixture[str], old: str, new: str, says: str
) -> None:
    edit(student, old, new)
    found = course.check(student)
    out, err = capfd.readouterr()
    assert says in out and err == ""
    assert "Traceback" not in out and not found.complete


def test_a_loop_without_end_is_stopped(student: Path) -> None:
    edit(student, "return log_scale\n", "while True: pass\n")
    found = course.check(student, limit=0.5, say=None)
    outcome = next(o for o in found.outcomes if o.check == "log-det")
    assert outcome.status == "failed" and "more than" in outcome.cause
    assert "loop" in outcome.hint


def test_numbers_are_compared_by_size_and_shape() -> None:
    import torch

    same(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.00001]), "x")
    for found in (torch.tensor([1.0, 2.1]), torch.tensor([[1.0, 2.0]]), None, torch.tensor([1.0])):
        with pytest.raises(CheckFailed):
            same(found, torch.tensor([1.0, 2.0]), "x")


def test_checking_leaves_nothing_behind(student: Path) -> None:
    import torch

    before, state = torch.get_num_threads(), torch.get_rng_state()
    course.check(student, say=None)
    assert torch.get_num_threads() == before and torch.equal(torch.get_rng_state(), state)
    assert not list(student.rglob("__pycache__"))


# -- pack -----------------------------------------------------------------------------------


def test_a_zip_has_what_may_be_handed_in_and_always_the_same_bytes(student: Path) -> None:
    (student / "notes.txt").write_text("mine")
    (student / "work").mkdir()
    (student / "work" / "weights.bin").write_bytes(b"x")
    (student / "figures").mkdir()
    (student / "figures" / "curves.png").write_bytes(b"png")
    found = course.pack(student)
    first = found.path.read_bytes()
    assert course.pack(student, student.parent / "b.zip").path.read_bytes() == first
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        assert archive.namelist() == list(found.files)
    assert "figures/curves.png" in found.files and "notes.txt" not in found.files
    assert set(found.left_out) == {"README.md", "notes.txt"}
    assert any("figures" in what for what in found.missing)
    assert any("report.md" in what for what in found.missing)
    assert not any("blank" in what for what in found.missing)


def test_what_is_missing_is_listed(written: Path, tmp_path: Path) -> None:
    shutil.copytree(written / "student", tmp_path / "s")
    (tmp_path / "s" / "ai_use.md").unlink()
    missing = course.pack(tmp_path / "s").missing
    assert "ai_use.md is missing" in missing
    assert sum(what.startswith("blank ") for what in missing) == 7


def test_links_and_too_much_are_refused(student: Path) -> None:
    (student / "figures").mkdir()
    (student / "figures" / "big.png").write_bytes(bytes(5_000_001))
    with pytest.raises(InputError, match="5,000,000 bytes"):
        course.pack(student)
    (student / "figures" / "big.png").unlink()
    (student / "figures" / "out.png").symlink_to("/etc/hostname")
    with pytest.raises(InputError, match="is a link"):
        course.pack(student)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("schema = 1", "schema = 9", "schema 9"),
        ('assignment = "flow"', 'assignment = "other"', "no assignment 'other'"),
        ('base = "normal"', 'base = "cauchy"', "choice 'base'"),
        ("steps = ", "steps = '", "is not readable"),
        ("[files]", "[fils]", "'files' is missing"),
    ],
)
def test_a_changed_assignment_file_is_one_line(
    student: Path, old: str, new: str, says: str
) -> None:
    path = student / "assignment.toml"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(InputError, match=says):
        course.check(student, say=None)


# -- figures and the notebook ---------------------------------------------------------------


def fewer_steps(folder: Path, steps: int) -> None:
    path = folder / "assignment.toml"
    kit = open_assignment(folder).kit
    path.write_text(path.read_text().replace(f"steps = {kit.steps}", f"steps = {steps}"))


def test_figures_go_into_the_report(student: Path) -> None:
    fewer_steps(student, 20)
    numbers = course.figures(student)
    assert numbers["steps"] == 20 and numbers["integral of the density over the frame"] > 0.5
    report = (student / "report.md").read_text()
    assert f"| parameters | {numbers['parameters']:,} |" in report
    for figure in open_kit("flow").drawn:
        assert (student / "figures" / f"{figure.name}.png").stat().st_size > 1000
    runs = list((student / studio.WORK).iterdir())
    course.figures(student)
    assert list((student / studio.WORK).iterdir()) == runs, "the same file is not trained again"
    assert (student / "report.md").read_text().count("| parameters |") == 1
    assert not any("figures" in what for what in course.pack(student).missing)


def test_harder_data_have_a_section_of_their_own(student: Path) -> None:
    fewer_steps(student, 20)
    course.figures(student)
    for steps in (10, 12):
        numbers = course.figures(student, data="ring", steps=steps)
        assert numbers["steps"] == steps
    report = (student / "report.md").read_text()
    assert report.count("## Harder: ring") == 1 and report.count("| steps | 12 |") == 1
    assert "| steps | 20 |" in report and "](figures/ring-density.png)" in report
    assert (student / "figures" / "ring-density.png").stat().st_size > 1000
    assert "figures/ring-density.png" in course.pack(student).files
    with pytest.raises(InputError, match="unknown data 'mnist'"):
        course.figures(student, data="mnist")


def test_stopped_figures_go_on_by_the_same_call(
    student: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise Interrupted("stopped at step 3; 'work' is saved: go on with --resume")

    with monkeypatch.context() as patch:
        patch.setattr(studio, "train", stopped)
        with pytest.raises(Interrupted, match="the same call goes on"):
            course.figures(student)


def test_figures_wait_for_the_blanks(written: Path) -> None:
    with pytest.raises(InputError, match="blanks 1, 2, 3, 4, 5, 6, 7 are not filled in"):
        course.figures(written / "student")


def test_the_notebook_writes_the_same_file(written: Path) -> None:
    book = json.loads((written / "student" / "assignment.ipynb").read_text())
    cells = ["".join(c["source"]) for c in book["cells"] if c["cell_type"] == "code"]
    text = ""
    for cell in cells:
        first, _, rest = cell.partition("\n")
        if first.startswith("%%writefile"):
            text = text + rest if "-a" in first else rest
    assert text == (written / "student" / "submission" / "model.py").read_text()
    assert cells[-3:] == [
        "import genzoo.course\n\ngenzoo.course.check()",
        "genzoo.course.figures()",
        "genzoo.course.pack()",
    ]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_notebook_runs_from_top_to_bottom(written: Path, tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    shutil.copytree(written / "student", tmp_path / "s")
    fewer_steps(tmp_path / "s", 20)
    made: Any = render("flow", open_kit("flow"), 0)
    from genzoo.course.notebooks import as_notebook

    solved = as_notebook("story", made.solution)
    book = nbformat.reads(solved, as_version=4)
    where = {"metadata": {"path": str(tmp_path / "s")}}
    client.NotebookClient(book, timeout=300, resources=where).execute()
    shown = json.dumps(book)
    assert "10 of 10 checks hold" in shown and '"name": "stderr"' not in shown
    assert (tmp_path / "s" / "figures" / "density.png").is_file()
    assert (tmp_path / "s" / "flow.zip").is_file()
