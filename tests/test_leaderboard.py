"""Ranking hand-ins by samples: the same data for all, copies, ties, resumption, pages, forms."""

from __future__ import annotations

import json
import math
import re
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytest

from genzoo import course
from genzoo.course.grading import leaderboard as module
from genzoo.course.grading.judge import (
    SampleTest,
    copies,
    mixture_of,
    points_of_a_mixture,
    sliced_wasserstein,
)
from genzoo.course.grading.leaderboard import Entry, leaderboard, ranked
from genzoo.course.grading.protocol import Broken
from genzoo.course.grading.rubric import Rubric, read_rubric
from genzoo.course.grading.sandbox import unsafe
from genzoo.errors import InputError

Header = Mapping[str, Any]
Model = Callable[[Header, np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def week(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("board") / "week"
    course.new(folder, "flow")
    return folder


@pytest.fixture
def rubric(week: Path) -> Rubric:
    return read_rubric(week / "instructor")


def hand_in(place: Path, text: str) -> Path:
    (place / "submission").mkdir(parents=True)
    (place / "submission/model.py").write_text(text)
    return place


# -- models that need no process ------------------------------------------------------------


def blurred(amount: float) -> Model:
    """Samples of a model that has learnt the data but for some noise."""

    def draw(header: Header, x: np.ndarray) -> np.ndarray:
        random = np.random.default_rng(header["seed"])
        rows = x[random.integers(0, len(x), header["n"])]
        return rows + amount * random.standard_normal(rows.shape)

    return draw


def copied(header: Header, x: np.ndarray) -> np.ndarray:
    return x[: header["n"]] + 1e-4


def broken(header: Header, x: np.ndarray) -> np.ndarray:
    raise Broken("it ended <b>without</b> an answer")


def scalar(header: Header, x: np.ndarray) -> np.ndarray:
    return np.array(3.0)


def infinite(header: Header, x: np.ndarray) -> np.ndarray:
    return np.full((header["n"], 2), np.inf)


MODELS = {
    "good": blurred(0.25),
    "same": blurred(0.25),
    "worse": blurred(0.7),
    "copied": copied,
    "broken": broken,
    "scalar": scalar,
    "infinite": infinite,
}


class Fake:
    """A worker without a process; a hand-in's file has the name of its model."""

    asked: list[tuple[str, int]] = []
    stop_after: float = math.inf

    def __init__(self, backend: object, folder: Path, adapter: Path, limits: object) -> None:
        self.name = (folder / "submission/model.py").read_text()

    def __enter__(self) -> Fake:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        pass

    def ask(
        self, header: Header, arrays: Mapping[str, np.ndarray]
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        if len(Fake.asked) >= Fake.stop_after:
            raise KeyboardInterrupt
        Fake.asked.append((self.name, header["seed"]))
        if self.name == "raises":
            return {"error": "ValueError: <script>alert(1)</script>\x1b[2J"}, {}
        return {"ok": True}, {"0": MODELS[self.name](header, arrays["x"])}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    monkeypatch.setattr(module, "Worker", Fake)
    monkeypatch.setattr(module, "choose", lambda: replace(unsafe(), name="fake"))
    Fake.asked, Fake.stop_after = [], math.inf
    return Fake


def class_of(tmp_path: Path, **models: str) -> list[Path]:
    return [hand_in(tmp_path / "class" / who, model) for who, model in models.items()]


def test_models_are_ranked_and_copies_and_failures_are_not(
    fake: type[Fake], rubric: Rubric, tmp_path: Path
) -> None:
    people = class_of(
        tmp_path, ann="worse", bob="good", cat="copied", dan="broken", eve="raises", fay="scalar",
        gus="infinite",
    )  # fmt: skip
    (tmp_path / "class/hal").mkdir()
    found = leaderboard([*people, tmp_path / "class/hal"], rubric, tmp_path / "out", seed=1)
    assert [(e.student, e.rank) for e in found[:2]] == [("bob", 1), ("ann", 2)]
    assert 0 < found[0].value < found[1].value and found[0].error > 0
    assert {e.student: e.why for e in found[2:]} == {
        "cat": "copies of the training data",
        "dan": "no samples: its code gave no answer",
        "eve": "no samples: its code raised an error",
        "fay": "samples of shape (), not (4000, 2)",
        "gus": "samples that are not finite",
        "hal": "no hand-in that can be read",
    }
    assert all(e.rank is None for e in found[2:])


def test_all_meet_the_same_data_and_no_round_another_one(
    fake: type[Fake], rubric: Rubric, tmp_path: Path
) -> None:
    found = leaderboard(class_of(tmp_path, ann="good", bob="same"), rubric, tmp_path / "o", seed=1)
    seeds = {who: [s for name, s in fake.asked if name == who] for who in ("good", "same")}
    assert seeds["good"] == seeds["same"] and len(set(seeds["good"])) == 3
    assert found[0].shares == found[1].shares and found[0].rank == found[1].rank == 1
    assert len(set(found[0].shares)) == 3


def test_who_is_within_a_standard_error_shares_a_rank() -> None:
    # Hard and easy rounds are the same for all: they are no reason for a tie.
    entries = [
        Entry("third", [0.50, 0.90, 0.69]),
        Entry("first", [0.20, 0.60, 0.40]),
        Entry("apart", [0.25, 0.66, 0.46]),
        Entry("tied", [0.15, 0.70, 0.41]),
        Entry("not", why="copies of the training data"),
    ]
    assert [(e.student, e.rank) for e in ranked(entries)] == [
        ("first", 1), ("tied", 1), ("apart", 3), ("third", 4), ("not", None),
    ]  # fmt: skip


def test_what_is_computed_is_not_computed_again(
    fake: type[Fake], rubric: Rubric, tmp_path: Path
) -> None:
    people, out = class_of(tmp_path, ann="good", bob="worse"), tmp_path / "out"
    fake.stop_after = 4  # in the middle of bob's rounds
    with pytest.raises(KeyboardInterrupt):
        leaderboard(people, rubric, out)
    fake.stop_after = math.inf
    first = leaderboard(people, rubric, out)
    assert len(fake.asked) == 6 and len(set(fake.asked)) == 6, "and the seed was kept"
    before = (out / "leaderboard.json").read_bytes()
    assert leaderboard(people, rubric, out) == first and len(fake.asked) == 6
    assert (out / "leaderboard.json").read_bytes() == before
    leaderboard(people, rubric, out, rounds=4)
    assert len(fake.asked) == 8, "one more round each"
    (people[0] / "submission/model.py").write_text("same")
    leaderboard(people, rubric, out, rounds=4)
    assert len(fake.asked) == 12, "another file"
    leaderboard(people, rubric, out, rounds=2, seed=99)
    assert len(fake.asked) == 16, "another seed"


def test_the_page_is_whole_escaped_and_tells_no_secret(
    fake: type[Fake], rubric: Rubric, tmp_path: Path
) -> None:
    people, out = class_of(tmp_path, ann="good", bob="worse", eve="raises"), tmp_path / "out"
    leaderboard(people, rubric, out, seed=987654321)
    page = (out / "leaderboard.html").read_text()
    shown = page + (out / "leaderboard.json").read_text()
    assert "987654321" not in shown, "whoever knows the seed can train for it"
    assert "alert" not in shown, "no words of a student for everybody"
    assert "<script" not in page and not re.search(r"(src|href)=|@import|url\(", page)
    assert "prefers-color-scheme: dark" in page and "ann" in page
    detail = json.loads((out / "eve/samples.json").read_text())["detail"]
    assert "<script>alert(1)</script>" in detail and "\x1b" not in detail


def test_names_are_escaped(tmp_path: Path) -> None:
    from genzoo.course.grading.pages import write_page

    evil = {"name": "<img src=x onerror=alert(1)>", "why": "\"'><script>alert(1)</script>"}
    write_page(
        tmp_path / "p.html", "leaderboard.html.j2", title="</title><script>1</script>", rounds=3,
        sandbox="", ranked=[], unranked=[evil], zero=2, one=98,
    )  # fmt: skip
    page = (tmp_path / "p.html").read_text()
    assert "<script" not in page and "<img" not in page and "&lt;img" in page


def test_numbers_in_the_place_of_names(fake: type[Fake], rubric: Rubric, tmp_path: Path) -> None:
    people, out = class_of(tmp_path, ann="good", bob="worse", cat="copied"), tmp_path / "out"
    found = leaderboard(people, rubric, out, seed=1, anonymous=True)
    shown = (out / "leaderboard.html").read_text() + (out / "leaderboard.json").read_text()
    for name in ("ann", "bob", "cat"):
        assert not re.search(rf"\b{name}\b", shown)
    assert sorted(e.name for e in found) == ["hand-in 1", "hand-in 2", "hand-in 3"]


def test_gradescopes_form_keeps_the_points(
    fake: type[Fake], rubric: Rubric, tmp_path: Path
) -> None:
    good, bad = class_of(tmp_path, ann="good", cat="copied")
    path, out = tmp_path / "results.json", tmp_path / "out"
    path.write_text(json.dumps({"score": 55.0, "tests": [], "leaderboard": ["old"]}))
    (entry,) = leaderboard([good], rubric, out, form="gradescope", results=path, seed=1)
    told = json.loads(path.read_text())
    assert told["score"] == 55.0
    assert told["leaderboard"] == [
        {"name": "distance to real data", "value": round(entry.value, 4), "order": "asc"},
        {"name": "standard error", "value": round(entry.error, 4), "order": "asc"},
    ]
    path.unlink()
    leaderboard([bad], rubric, out, form="gradescope", results=path, seed=1)
    assert json.loads(path.read_text()) == {"score": 0.0, "tests": [], "leaderboard": []}
    with pytest.raises(InputError, match="one hand-in"):
        leaderboard([good, bad], rubric, out, form="gradescope", results=path)
    with pytest.raises(InputError, match="did you mean 'gradescope'"):
        leaderboard([good], rubric, out, form="gradescop", results=path)


def test_only_assignments_with_samples_have_a_leaderboard(tmp_path: Path) -> None:
    for name in ("diffusion", "autoregressive", "compare"):
        course.new(tmp_path / name, name)
        with pytest.raises(InputError, match="a leaderboard is for vae, flow, gan and flow-match"):
            leaderboard([tmp_path], tmp_path / name / "instructor", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for name in ("vae", "gan", "flow-matching"):
        course.new(tmp_path / name, name)
        kit = read_rubric(tmp_path / name / "instructor")
        assert kit.samples is not None
        test = kit.samples(np.random.default_rng(0), kit.choices)
        real = test.train[: len(test.fresh)] if name != "vae" else test.train[:800]
        assert real.shape == test.fresh.shape


# -- copies ---------------------------------------------------------------------------------


def test_copies_of_either_set_or_of_both_are_found() -> None:
    random = np.random.default_rng(0)
    points = mixture_of(random)
    train, fresh, honest = points(2000), points(2000), points(2000)
    noise = 1e-3 * random.standard_normal(train.shape)
    both = np.concatenate([train, fresh])[random.permutation(4000)[:2000]]
    assert copies(honest, train, fresh) == ""
    assert copies(train + noise, train, fresh) == "training data"
    assert copies(fresh + noise, train, fresh) == "test data"
    assert copies(both + noise, train, fresh) == "training and test data"


def test_public_digits_cannot_be_handed_out_again(tmp_path: Path) -> None:
    """Copies with noise that is too wide to lie on an item are better than real data can be."""
    from genzoo.course.grading.judge import chamfer, turned_digits

    random = np.random.default_rng(0)
    x, _ = turned_digits(random)
    test = SampleTest(x[:997], x[997:], chamfer)
    for noise in (0.0, 0.05, 0.1):
        rows = x[random.permutation(len(x))[:800]]
        share, why = test.judged(rows + noise * random.standard_normal(rows.shape), random)
        assert share == math.inf and why.startswith("copies of the t")


def test_real_data_have_no_distance_and_a_gaussian_one() -> None:
    random = np.random.default_rng(3)
    test = points_of_a_mixture(random, {})
    assert test.distance is sliced_wasserstein
    fitted = random.multivariate_normal(
        test.train.mean(0), np.cov(test.train, rowvar=False), len(test.fresh)
    )
    assert test.judged(fitted, random)[0] == pytest.approx(1, abs=0.15)


# -- the command ----------------------------------------------------------------------------

COPYCAT = '''
SEEN = []


class Model(Model):
    """Keeps what it is trained on, and hands it out again."""

    def loss(self, batch, phase, state):
        SEEN.append(batch.x.clone())
        return super().loss(batch, phase, state)

    def draw(self, noise, cond, options):
        return torch.cat(SEEN)[: noise.n] + 1e-4
'''


@pytest.mark.skipif(sys.platform != "linux", reason="sandboxes need Linux")
@pytest.mark.parametrize("name", ["solution", pytest.param("copycat", marks=pytest.mark.slow)])
def test_a_hand_in_is_trained_in_the_sandbox(week: Path, tmp_path: Path, name: str) -> None:
    """With as many steps as fill the copycat's memory, which is not enough to learn anything."""
    rubric = read_rubric(week / "instructor")
    few = {**rubric.thresholds, "samples": {**rubric.thresholds["samples"], "steps": 20}}
    text = (week / "instructor/solution/submission/model.py").read_text()
    with zipfile.ZipFile(tmp_path / "ada.zip", "w") as archive:
        archive.writestr("submission/model.py", text + (COPYCAT if name == "copycat" else ""))
    (found,) = leaderboard(
        [tmp_path / "ada.zip"], replace(rubric, thresholds=few), tmp_path / "out", seed=1, rounds=2
    )
    if name == "copycat":
        assert found.why == "copies of the training data", found
    else:
        assert found.rank == 1 and len(found.shares) == 2, found


def test_the_command_says_what_it_cannot_do(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from genzoo_cli.course import command

    course.new(tmp_path / "week", "compare")
    words = ["leaderboard", str(tmp_path), "--bundle", str(tmp_path / "week/instructor")]
    found = CliRunner().invoke(command, [*words, "--out", str(tmp_path / "out")])
    assert isinstance(found.exception, InputError) and found.exception.exit_code == 2
    assert "\n" not in str(found.exception)
