"""Hand-ins side by side: copies above honest work, whatever the names, and hostile files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from genzoo import course
from genzoo.course.blanks import emptied, find_blanks
from genzoo.course.similarity import Pair, Similarity, similarity
from genzoo.course.tokens import ELSEWHERE, Segment, fingerprints, own_segments
from genzoo.errors import InputError


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("similarity") / "week"
    course.new(folder, "flow")
    return folder / "instructor"


@pytest.fixture(scope="module")
def solution(bundle: Path) -> str:
    return (bundle / "solution/submission/model.py").read_text()


def filled(solution: str, answers: Mapping[int, str]) -> str:
    """The starter with these blanks filled."""
    lines = emptied(solution).splitlines()
    for blank in reversed(find_blanks("\n".join(lines))):
        if blank.number in answers:
            content = [
                blank.indent + line for line in answers[blank.number].strip("\n").split("\n")
            ]
            lines[blank.line : blank.line + len(blank.lines)] = content
    return "\n".join(lines) + "\n"


def hand_in(place: Path, text: str | bytes) -> Path:
    (place / "submission").mkdir(parents=True)
    content = text if isinstance(text, bytes) else text.encode()
    (place / "submission/model.py").write_bytes(content)
    return place


HONEST: dict[str, dict[int, str]] = {
    "ada": {
        1: """
s, t = self.log_scale_and_shift(x[:, self.kept])
z = x.clone()
z[:, 1 - self.kept] = torch.exp(s) * x[:, 1 - self.kept] + t
return z
""",
        2: """
s, t = self.log_scale_and_shift(z[:, self.kept])
x = z.clone()
x[:, 1 - self.kept] = (z[:, 1 - self.kept] - t) / torch.exp(s)
return x
""",
        3: "return self.log_scale_and_shift(x[:, self.kept])[0]",
        4: """
norm = math.sqrt(2 * math.pi)
return torch.log(torch.exp(-z ** 2 / 2) / norm).sum(-1)
""",
        5: """
logdet = 0
for f in self.couplings:
    logdet += f.log_det(x)
    x = f.transform(x)
return logdet + self.base_log_density(x)
""",
        6: "total = torch.mean(-self.log_density(batch.x, batch.cond))",
        7: """
for i in range(len(self.couplings) - 1, -1, -1):
    z = self.couplings[i].inverse(z)
return z
""",
    },
    "bob": {
        1: """
fixed = x[:, self.kept]
log_s, move = self.log_scale_and_shift(fixed)
out = torch.empty_like(x)
out[:, self.kept] = fixed
out[:, 1 - self.kept] = x[:, 1 - self.kept].mul(log_s.exp()).add(move)
return out
""",
        2: """
fixed = z[:, self.kept]
log_s, move = self.log_scale_and_shift(fixed)
out = torch.empty_like(z)
out[:, self.kept] = fixed
out[:, 1 - self.kept] = z[:, 1 - self.kept].sub(move).div(log_s.exp())
return out
""",
        3: "a, b = self.log_scale_and_shift(x.select(1, self.kept))\nreturn a",
        4: "return torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(dim=-1)",
        5: """
terms = []
for layer in self.couplings:
    terms.append(layer.log_det(x))
    x = layer.transform(x)
terms.append(self.base_log_density(x))
return torch.stack(terms).sum(dim=0)
""",
        6: "total = self.log_density(batch.x, batch.cond).neg().mean()",
        7: "for layer in list(self.couplings)[::-1]:\n    z = layer.inverse(z)\nreturn z",
    },
    "cleo": {
        1: """
a, b = x.unbind(1)
if self.kept == 0:
    s, t = self.log_scale_and_shift(a)
    return torch.cat([a[:, None], (b * s.exp() + t)[:, None]], 1)
s, t = self.log_scale_and_shift(b)
return torch.cat([(a * s.exp() + t)[:, None], b[:, None]], 1)
""",
        2: """
a, b = z.unbind(1)
if self.kept == 0:
    s, t = self.log_scale_and_shift(a)
    return torch.cat([a[:, None], ((b - t) * torch.exp(-s))[:, None]], 1)
s, t = self.log_scale_and_shift(b)
return torch.cat([((a - t) * torch.exp(-s))[:, None], b[:, None]], 1)
""",
        3: "s, t = self.log_scale_and_shift(x[:, self.kept])\nreturn s",
        4: "return -(z ** 2).sum(1) / 2 - math.log(2 * math.pi)",
        5: """
z, lp = x, x.new_zeros(x.shape[0])
for c in self.couplings:
    lp = lp + c.log_det(z)
    z = c.transform(z)
lp = lp + self.base_log_density(z)
return lp
""",
        6: "lp = self.log_density(batch.x, batch.cond)\ntotal = -lp.sum() / len(lp)",
        7: "for c in self.couplings[::-1]:\n    z = c.inverse(z)\nreturn z",
    },
}


def disguised(text: str) -> str:
    """Other names, comments, spaces, quotes and numbers; the same work."""
    names = {"fixed": "held", "log_s": "alpha", "move": "beta", "out": "answer", "layer": "block",
             "terms": "collected", "a, b": "first, second", "return a": "return first"}  # fmt: skip
    for old, new in names.items():
        text = re.sub(rf"\b{old}\b", new, text)
    text = text.replace(" = ", "  =  ").replace("[:, ", "[ : ,").replace("(0.0, 1.0)", "(0., 1.)")
    return text.replace("return answer", "# my own idea\nreturn answer")


@pytest.fixture(scope="module")
def people(solution: str, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    place = tmp_path_factory.mktemp("class")
    texts = {name: filled(solution, answers) for name, answers in HONEST.items()}
    texts["dan"] = filled(solution, {n: disguised(t) for n, t in HONEST["bob"].items()})
    return [hand_in(place / name, text) for name, text in texts.items()]


def by_names(found: Similarity) -> dict[tuple[str, str], Pair]:
    return {(pair.left, pair.right): pair for pair in found.pairs}


def test_a_copy_with_other_names_is_above_all_honest_pairs(
    people: list[Path], bundle: Path
) -> None:
    found = similarity(people, bundle)
    first, *rest = found.pairs
    assert (first.left, first.right) == ("bob", "dan") and not first.identical
    assert first.containment > 0.9 and first.jaccard > 0.9
    assert all(pair.containment < 0.4 for pair in rest), [
        (p.left, p.right, p.containment) for p in rest
    ]
    assert first.blanks[1][0] == first.blanks[1][1] > 5
    assert {r.blank for r in first.regions} >= {1, 2, 5}
    assert all(r.blank == r.right_blank for r in first.regions if r.blank in (1, 2, 5))


def test_the_solution_and_what_all_have_say_nothing_about_a_pair(
    bundle: Path, solution: str, tmp_path: Path
) -> None:
    """Two right and usual answers are no pair; that both are the solution is told, though."""
    text = solution.replace("log_scale", "ls_").replace("changed", "c").replace("restored", "r")
    both = [hand_in(tmp_path / name, text.replace("total", name)) for name in ("ann", "ben")]
    found = by_names(similarity(both, bundle))
    assert ("ann", "ben") not in found
    assert found["ann", "solution/submission/model.py"].containment > 0.9


def test_what_more_than_half_of_a_class_shares_is_nothing(
    bundle: Path, solution: str, tmp_path: Path
) -> None:
    text = filled(solution, HONEST["ada"])
    everybody = [hand_in(tmp_path / f"s{i}", text + f"# {i}\n") for i in range(5)]
    assert not [p for p in similarity(everybody, bundle).pairs if p.kind == "hand-in"]
    ring = similarity(everybody[:3], bundle)
    assert [p.kind for p in ring.pairs[:3]] == ["hand-in"] * 3, "a ring in a small class is seen"
    assert ring.pairs[0].containment == 1


def test_the_same_files_are_told_and_empty_ones_are_not(
    bundle: Path, solution: str, tmp_path: Path
) -> None:
    text = filled(solution, HONEST["ada"])
    same = [hand_in(tmp_path / name, text) for name in ("ann", "ben")]
    open_ = [hand_in(tmp_path / name, emptied(solution)) for name in ("eve", "fay")]
    found = similarity([*same, *open_], bundle)
    assert found.pairs[0].identical and found.pairs[0].right == "ben"
    assert not any({"eve", "fay"} & {p.left, p.right} for p in found.pairs)
    assert found.notes["eve"] == "blanks as they were given: 1, 2, 3, 4, 5, 6, 7"


def test_code_of_the_library_is_found(bundle: Path, solution: str, tmp_path: Path) -> None:
    import genzoo

    path = Path(genzoo.__file__).parent / "models/coupling_flows.py"
    taken = filled(solution, {1: "\n".join(path.read_text().splitlines()[60:110])})
    found = similarity([hand_in(tmp_path / "ann", taken.replace("weight", "w"))], bundle)
    assert found.pairs[0].right == "genzoo/models/coupling_flows.py"
    assert found.pairs[0].containment > 0.7


def test_work_without_marks_is_compared_as_a_whole(people: list[Path], bundle: Path) -> None:
    bob, dan = (person for person in people if person.name in ("bob", "dan"))
    text = (dan / "submission/model.py").read_text()
    place = hand_in(dan.parent / "nomarks", re.sub(r"(?m)^ *# (END|BLANK).*\n", "", text))
    found = similarity([bob, place], bundle)
    assert found.pairs[0].right == "nomarks" and found.pairs[0].containment > 0.8
    assert found.notes["nomarks"] == "marks of blanks are missing"
    assert {region.right_blank for region in found.pairs[0].regions} == {ELSEWHERE}


# -- fingerprints ---------------------------------------------------------------------------


def values(text: str) -> list[int]:
    return [p.value for p in fingerprints(Segment(1, 1, tuple(text.split("\n"))))]


def test_what_changes_no_meaning_changes_no_fingerprint() -> None:
    one = "def f(x, scale=2):\n    'why'\n    y = torch.exp(x * scale, dim=1)\n    return y + 2"
    other = "def g(a,b = 2.0) :\n  # so\n  c=t.exp( a*b,\n dim=1 )\n\n  return (c+2)".replace(
        "(c+2)", "c+2"
    )
    assert values(one) == values(other) != []
    assert values(one) != values(one.replace("exp", "log")), "a library's names stay"
    assert values(one) != values(one.replace("dim=1", "dim=0"))
    assert values(one) != values(one.replace("dim", "axis"))


def test_winnowing_keeps_its_promise() -> None:
    """Whatever is shared over GRAM + WINDOW - 1 tokens is found, wherever it lies."""
    shared = "a = b.c(d) + e.f(g)"  # 15 tokens
    for before in ("", "x = [1, 2, 3]\n", "for i in range(9):\n    k.append(i ** 2)\n"):
        for after in ("", "\nq = z.y(1)[2]"):
            assert set(values(before + shared + after)) & set(values("w = 0 / 1\n" + shared))


def test_own_lines_are_the_blanks_and_what_was_added(solution: str) -> None:
    given = emptied(solution).splitlines()
    text = filled(solution, HONEST["ada"]).replace(
        "class Model(", "def helper(v):\n    return v.exp().log() + 1\n\n\nclass Model("
    )
    found = own_segments(text, given)
    (extra,) = [s for s in found if s.blank == ELSEWHERE]
    assert extra.lines == ("def helper(v):", "    return v.exp().log() + 1")
    assert text.splitlines()[extra.line - 1] == "def helper(v):"
    assert [s.blank for s in found if s.blank] == [1, 2, 3, 4, 5, 6, 7]
    assert own_segments(emptied(solution), given) == []


# -- hostile files --------------------------------------------------------------------------

HOSTILE: dict[str, bytes] = {
    "binary": bytes(range(256)) * 50,
    "nothing": b"",
    "nul": b"x = 1\x00\ny = 2\n",
    "open string": b"def f():\n    '''" + b"x = [1, 2, 3]\n" * 3000,
    "open brackets": b"x = " + b"(" * 5000 + b"\n" + b"y = f(1, 2)\n" * 100,
    "huge": b"x = y + z * 3\n#" + b"x" * 1_900_000,
    "one line": b"a+" * 30_000,
    "blank lines": b"\n" * 150_000,
    "utf-16": "x = 1\n".encode("utf-16"),
    "surrogates": b"x = '\xed\xa0\x80'\n",
    "marks": b"# BLANK 1: a\n# BLANK 2: b\n# END 7\nx = 1\n",
    "numbers": b"# BLANK " + b"9" * 5000 + b": a\nx = 1\n# END " + b"9" * 5000 + b"\n",
    "indentation": b"    if x:\n  y\n\t\tz = f(1, 2, 3, 4)\n",
    "digits": b"x = " + b"9" * 100_000 + b"\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_any_file_is_compared(name: str, bundle: Path, tmp_path: Path) -> None:
    both = [hand_in(tmp_path / who, HOSTILE[name]) for who in ("ann", "ben")]
    found = similarity(both, bundle, tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 1_000_000
    if name == "huge":
        assert "only its first 200,000" in found.notes["ann"]


def test_what_is_no_hand_in_is_told(bundle: Path, people: list[Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("submission/model.py", bytes(50_000_000))
    found = similarity([tmp_path / "empty", tmp_path / "bomb.zip", *people], bundle)
    assert found.pairs[0].left == "bob"
    assert "no submission/model.py" in found.notes["empty"]
    assert "larger than" in found.notes["bomb"]


def test_the_page_shows_text_as_text(bundle: Path, solution: str, tmp_path: Path) -> None:
    evil = "</pre><script>alert(1)</script><img src=x onerror=alert(1)> \x1b[2J \u202e"
    answers = {1: f"return torch.foo(x, '{evil}', [1, 2, 3], x.bar(3), {{{{}}}})  # {evil}"}
    text = filled(solution, answers).replace("# BLANK 1: the", f"# BLANK 1: {evil}")
    both = [hand_in(tmp_path / who, text) for who in ("ann <b>", "ben")][1:]
    both.append(hand_in(tmp_path / "cat", text.replace("return torch", "return  torch")))
    similarity(both, bundle, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "torch.foo" in page and "&lt;/pre&gt;&lt;script&gt;" in page
    allowed = "a html head meta title style body main h1 h2 p div table thead tbody tr th td a"
    found = set(re.findall(r"<([a-z0-9]+)", page))
    assert found <= {*allowed.split(), "span", "details", "summary", "strong", "pre"}
    assert "\x1b" not in page and "\u202e" not in page
    with pytest.raises(InputError, match="give its file a name"):
        similarity([tmp_path / "ann <b>"], bundle)


def test_nothing_is_executed_and_no_torch_is_imported(bundle: Path, tmp_path: Path) -> None:
    bad = hand_in(tmp_path / "eve", f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    code = """
import sys
from genzoo.course.similarity import similarity
similarity(sys.argv[2:], sys.argv[1])
sys.exit('torch' in sys.modules)
"""
    words = [sys.executable, "-c", code, str(bundle), str(bad)]
    assert subprocess.run(words, check=False).returncode == 0
    assert not (tmp_path / "ran").exists()


def test_reports_and_the_command(people: list[Path], bundle: Path, tmp_path: Path) -> None:
    from click.testing import CliRunner

    from genzoo_cli.console import Answer
    from genzoo_cli.course import command

    words = ["similarity", *map(str, people), "--bundle", str(bundle), "--pairs", "2"]
    out = tmp_path / "new/alike.json"
    found = CliRunner().invoke(command, [*words, "--out", str(out)], standalone_mode=False)
    assert isinstance(found.return_value, Answer), found
    assert "no proof" in found.return_value.text
    told = json.loads(out.read_text())
    kinds = [pair["kind"] for pair in told["pairs"]]
    assert told["pairs"][0]["left"] == "bob" and len(kinds) == 4
    assert [kind == "hand-in" for kind in kinds] == [True, True, False, False]
    assert "no proof" in told["note"]
    with pytest.raises(InputError, match="ends with .html or .json"):
        similarity(people, bundle, tmp_path / "alike.txt")
    with pytest.raises(InputError, match="give the instructor's folder"):
        similarity(people, tmp_path)
