"""Data in tars and parquet files: what is found, what is held out, and what is refused."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
import time
import types
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from made_shards import encoded, pictures, samples, write_shards, write_tar
from PIL import Image

from genzoo.data import open_dataset, streamed
from genzoo.data.stream import FEW
from genzoo.data.tars import members
from genzoo.data.workers import in_workers
from genzoo.errors import GenzooError, InputError, MachineError


@pytest.fixture(autouse=True)
def own_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Indexes of a test are its own."""
    monkeypatch.setenv("GENZOO_DATA", str(tmp_path / "root"))
    return tmp_path / "root"


def rows(images: torch.Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]


# -- what is found --------------------------------------------------------------------------------


def test_every_picture_is_there_once_with_its_label(tmp_path: Path) -> None:
    """Fails with: labels of the neighbour, a picture in both splits, an order by shards."""
    data = open_dataset(write_shards(tmp_path / "s"))
    assert data.name == f"shards:{tmp_path}/s/part-*.tar" and data.class_names == ("0", "1", "2")
    assert data.spec.shape == (1, 8, 8) and data.spec.levels == 256
    assert sum(data.counts) == 120 and data.counts == (len(data.train.data), len(data.test.data))
    assert data.counts[1] == 24
    label = {image.tobytes(): i % 3 for i, image in enumerate(pictures(120))}
    for split in (data.train, data.test):
        assert split.labels is not None
        assert [label.pop(r) for r in rows(split.data)] == split.labels.tolist()
    assert not label
    shares = np.bincount(data.train.labels, minlength=3) / data.counts[0]
    np.testing.assert_allclose(data.spec.frequencies, shares)


def test_what_is_kept_are_some_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails with: the first ones kept, frequencies of the kept."""
    name = write_shards(tmp_path / "s")
    whole = open_dataset(name)
    monkeypatch.setattr(streamed, "KEPT", 20)
    data = open_dataset(name)
    assert len(data.train.data) == 20 and data.counts == whole.counts
    assert set(rows(data.train.data)) < set(rows(whole.train.data))
    assert rows(data.train.data) != rows(whole.train.data)[:20]
    assert data.spec == whole.spec and data.fingerprint != whole.fingerprint


def test_the_split_goes_by_content(tmp_path: Path) -> None:
    """Other names and files, the same pictures held out. Fails with: a split by position."""
    first = open_dataset(write_shards(tmp_path / "a", files=4))
    images = pictures(120)[::-1]
    write_tar(tmp_path / "b" / "x.tar", samples(images, [i % 3 for i in range(120)][::-1], 500))
    second = open_dataset(f"shards:{tmp_path}/b/x.tar")
    assert set(rows(first.test.data)) == set(rows(second.test.data))


@pytest.mark.parametrize("held", ["test", "val"])
def test_named_files_are_held_out(tmp_path: Path, held: str) -> None:
    """Fails with: words inside of words, validation beside a test set in training."""
    images = pictures(90)
    write_tar(tmp_path / "s" / "train-0.tar", samples(images[:60]))
    write_tar(tmp_path / "s" / f"{held}-0.tar", samples(images[60:]))
    data = open_dataset(f"shards:{tmp_path}/s")
    assert data.counts == (60, 30) and data.spec.cond == {}
    assert rows(data.test.data) == [image.tobytes() for image in images[60:]]
    if held == "test":
        write_tar(tmp_path / "s" / "val-0.tar", samples(pictures(10, 1)))
        write_tar(tmp_path / "s" / "contest-0.tar", samples(pictures(20, 2)))
        assert open_dataset(f"shards:{tmp_path}/s").counts == (80, 30)


def test_labels_in_json_and_by_name(tmp_path: Path) -> None:
    """Fails with: labels in the order of their appearance, numbers sorted as texts."""
    images = pictures(120)
    by_name = [
        entry
        for i, image in enumerate(images)
        for entry in (
            (f"{i}.json", json.dumps({"label": ("dog", "cat")[i % 2], "x": [i]}).encode()),
            (f"{i}.jpg", encoded(image, "JPEG")),
        )
    ]
    write_tar(tmp_path / "named.tar", by_name)
    named = open_dataset(f"shards:{tmp_path}/named.tar")
    assert named.class_names == ("cat", "dog") and named.spec.shape == (1, 8, 8)
    write_tar(tmp_path / "many.tar", samples(images, [2 * (i % 11) for i in range(120)]))
    assert open_dataset(f"shards:{tmp_path}/many.tar").class_names == tuple(
        str(k) for k in range(0, 22, 2)
    )


def test_size_and_color(tmp_path: Path) -> None:
    """As for a folder of images: cut to a square and resized."""
    images = [pictures(1, i, 10 + i % 3, 3)[0] for i in range(60)]
    write_tar(tmp_path / "s.tar", samples(images))
    data = open_dataset(f"shards:{tmp_path}/s.tar", size=8)
    assert data.spec.shape == (3, 8, 8)
    folder = tmp_path / "folder"
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i}.png")
    other = open_dataset(f"folder:{folder}", size=8)
    both = [torch.cat([d.train.data, d.test.data]) for d in (data, other)]
    assert sorted(rows(both[0])) == sorted(rows(both[1]))


def test_braces_and_folders(tmp_path: Path) -> None:
    """Fails with: braces taken for characters, a missing shard passed over."""
    pytest.importorskip("braceexpand")
    write_shards(tmp_path / "s")
    name = f"shards:{tmp_path}/s/part-{{000..003}}.tar"
    assert open_dataset(name).fingerprint == open_dataset(f"shards:{tmp_path}/s").fingerprint
    with pytest.raises(InputError, match=r"there is no '.*part-004.tar'"):
        open_dataset(f"shards:{tmp_path}/s/part-{{000..004}}.tar")


# -- the fingerprint ------------------------------------------------------------------------------


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    """Fails with: a hash of the file, of names, of sizes; labels or order left out."""
    images, labels = pictures(80), [i % 2 for i in range(80)]

    def mark(name: str, images: np.ndarray, labels: list[int], mtime: float = 0) -> str:
        write_tar(tmp_path / name, samples(images, labels), mtime)
        return open_dataset(f"shards:{tmp_path}/{name}").fingerprint

    first = mark("a.tar", images, labels)
    assert mark("b.tar", images, labels, mtime=1e9) == first
    assert mark("c.tar", images, labels, mtime=1e9 + 0.5) == first  # in extended headers
    changed = images.copy()
    changed[70, 7, 7] ^= 1
    assert mark("d.tar", changed, labels) != first
    assert mark("e.tar", images, [*labels[:-2], labels[-1], labels[-2]]) != first
    files = (streamed.index_file(tmp_path / f"{name}.tar").digest for name in "ae")
    assert len(set(files)) == 2  # not by their frequencies alone
    assert mark("f.tar", images[[1, 0, *range(2, 80)]], [1, 0, *labels[2:]]) != first


def test_of_large_pictures_both_ends_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails with: the beginning alone."""
    from genzoo.data import indexing

    monkeypatch.setattr(indexing, "WHOLE", 60)
    monkeypatch.setattr(indexing, "PART", 30)
    images = pictures(60)
    write_tar(tmp_path / "a.tar", samples(images))
    images[30, 7, 7] ^= 1
    write_tar(tmp_path / "b.tar", samples(images))
    marks = {open_dataset(f"shards:{tmp_path}/{n}.tar").fingerprint for n in "ab"}
    assert len(marks) == 2


def test_an_index_is_made_once_and_again_when_the_file_changes(
    tmp_path: Path, own_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails with: an index that outlives its file, a damaged one believed."""
    made: list[Path] = []
    index_file = streamed.index_file
    monkeypatch.setattr(streamed, "index_file", lambda p: made.append(p) or index_file(p))
    write_tar(tmp_path / "a.tar", samples(pictures(60)))
    name = f"shards:{tmp_path}/a.tar"
    first = open_dataset(name)
    assert open_dataset(name).fingerprint == first.fingerprint and len(made) == 1
    (kept,) = (p for p in (own_root / "indexes").iterdir() if not p.name.startswith("kept"))
    kept.write_bytes(kept.read_bytes()[:-50])
    assert open_dataset(name).fingerprint == first.fingerprint and len(made) == 2
    write_tar(tmp_path / "a.tar", samples(pictures(60, 1)))
    os.utime(tmp_path / "a.tar", ns=(1, 1))
    assert open_dataset(name).fingerprint != first.fingerprint and len(made) == 3


def test_what_is_kept_is_decoded_once(
    tmp_path: Path, own_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And again where its file is damaged. Fails with: a file believed unseen, of another part."""
    name = write_shards(tmp_path / "s")
    first = open_dataset(name)
    with monkeypatch.context() as patch:
        patch.setattr("genzoo.data.stream.read_block", lambda _: pytest.fail("decoded again"))
        again = open_dataset(name)
    assert torch.equal(again.train.data, first.train.data)
    assert torch.equal(again.test.data, first.test.data)
    for kept in (own_root / "indexes").glob("kept-*"):
        raw = bytearray(kept.read_bytes())
        raw[-600] ^= 1
        kept.write_bytes(raw)
    assert torch.equal(open_dataset(name).test.data, first.test.data)


# -- tars, against the libraries ------------------------------------------------------------------

NAMES = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1, max_size=150
).filter(lambda name: not name.endswith("/"))


@settings(max_examples=60, deadline=None)
@example([("a" * 80 + "/" + "b" * 90, b"1"), ("c", b"2")], tarfile.USTAR_FORMAT, 0)
@given(
    entries=st.lists(st.tuples(NAMES, st.binary(max_size=1100)), max_size=6),
    form=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT]),
    mtime=st.sampled_from([0, 1e9 + 0.25]),
)
def test_members_are_those_of_tarfile(
    entries: list[tuple[str, bytes]], form: int, mtime: float
) -> None:
    """Fails with: long names cut, a long name kept for the next member, rounding of sizes."""
    file = io.BytesIO()
    try:
        with tarfile.open(fileobj=file, mode="w", format=form, errors="surrogateescape") as tar:
            for name, content in entries:
                info = tarfile.TarInfo(name)
                info.size, info.mtime = len(content), mtime  # type: ignore[assignment]
                tar.addfile(info, io.BytesIO(content))
                link = tarfile.TarInfo("link")
                link.type, link.linkname = tarfile.SYMTYPE, name[:20]
                tar.addfile(link)
    except ValueError:  # this form has no room for the name
        return
    path = Path(os.environ["GENZOO_DATA"]).parent / "any.tar"
    path.write_bytes(file.getvalue())
    with tarfile.open(path) as tar:
        theirs = [
            (m.name.encode("utf-8", "surrogateescape"), m.offset_data, m.size)
            for m in tar
            if m.isreg()
        ]
    with open(path, "rb") as opened:
        found = list(members(opened, path))
    assert [(name.rstrip(b"/"), start, size) for name, start, size, _ in found] == theirs
    assert [part for *_, part in found] == [content for _, content in entries]


def test_samples_are_those_of_webdataset(tmp_path: Path) -> None:
    """Written and read by that library; names with folders, dots and other members in them."""
    webdataset = pytest.importorskip("webdataset")
    images = pictures(60)
    with webdataset.TarWriter(str(tmp_path / "w.tar")) as writer:
        for i, image in enumerate(images):
            writer.write(
                {
                    "__key__": f"a.b/{i:04d}",
                    "png": encoded(image),
                    "seg.txt": b"not a label",
                    "cls": str(i % 5).encode(),
                    "pyd": b"cos\nsystem\n(S'exit 1'\ntR.",
                }
            )
    theirs = {
        Image.open(io.BytesIO(s["png"])).tobytes(): int(s["cls"])
        for s in webdataset.WebDataset(str(tmp_path / "w.tar"), shardshuffle=False)
    }
    data = open_dataset(f"shards:{tmp_path}/w.tar")
    ours = dict(zip(rows(data.train.data), data.train.labels.tolist(), strict=True))
    ours |= dict(zip(rows(data.test.data), data.test.labels.tolist(), strict=True))
    assert ours == theirs and len(ours) == 60


# -- what is refused ------------------------------------------------------------------------------


def special(name: str, kind: bytes, target: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, size
    return info


def bomb(side: int = 30_000) -> bytes:
    """A PNG of so many pixels a side in a few bytes."""
    raw = bytearray(encoded(pictures(1)[0]))
    raw[16:24] = side.to_bytes(4, "big") * 2
    raw[29:33] = zlib.crc32(raw[12:29]).to_bytes(4, "big")
    return bytes(raw)


GOOD = samples(pictures(60))
BAD: dict[str, tuple[Callable[[bytes], bytes] | list, str]] = {
    "cut off in a picture": (lambda whole: whole[:30_100], "cut off"),
    "cut off between members": (lambda whole: whole[:30_720], "cut off"),
    "no archive": (lambda whole: b"\x89PNG" * 1000, "not a tar file"),
    "empty": (lambda whole: b"", "cut off"),
    "packed": (lambda whole: b"\x1f\x8b" + whole, "gunzip it"),
    "a flipped bit in a header": (
        lambda whole: whole[:10_243] + bytes([whole[10_243] ^ 1]) + whole[10_244:],
        "damaged at byte 10,240",
    ),
    "joined": (lambda whole: whole + whole, "goes on behind its end"),
    "no pictures": ([("a.txt", b"x"), ("b.pkl", b"y")], "no pictures in it"),
    "few": (GOOD[:20], "20 pictures|at least 50"),
    "an empty picture": ([*GOOD, ("x.png", b"")], "'x.png' is empty"),
    "not a picture": ([*GOOD, ("x.png", b"\x89PNG no")], "x.png in .*not a readable image"),
    "a bomb": ([*GOOD, ("x.png", bomb())], "pictures of 8x8 and 30000x30000"),
    "another size": ([*GOOD, *samples(pictures(1, 0, 12), first=90)], "8x8 and 12x12.*--size"),
    "another size, not told by a header": (
        [*GOOD, ("x.jpg", encoded(pictures(1, 0, 12)[0], "JPEG"))],
        "x.jpg in .*is 12x12, not 8x8",
    ),
    "no square": ([(n, encoded(pictures(1)[0][:4])) for n, _ in GOOD], "8x4.*choose --size 4"),
    "some labels": ([*samples(pictures(60), [1] * 60), *GOOD[:1]], "but '000000.png' has none"),
    "a label too late": ([*GOOD, *samples(pictures(1), [1], 90)], "but '000000.png' has none"),
    "a label alone": ([*GOOD, ("x.cls", b"1")], "'x.cls' labels no picture"),
    "two pictures": ([*GOOD, ("x.png", GOOD[0][1]), ("x.jpg", b"-")], "'x' has two pictures"),
    "no JSON": ([("x.png", GOOD[0][1]), ("x.json", b"{")], "'x.json' is not JSON"),
    "odd JSON": (
        [("x.png", GOOD[0][1]), ("x.json", b'{"label": [1]}')],
        "neither a whole number nor a text",
    ),
    "deep JSON": ([("x.png", GOOD[0][1]), ("x.json", b"[" * 60_000)], "is not JSON"),
    "a rare class": (samples(pictures(60), [0] * 59 + [1]), "class '1' has no training images|"),
    "terminal codes": ([*GOOD, ("\x1b[31mx.png", b"")], r"'\\x1b\[31mx.png' is empty"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_archives_are_refused_in_one_line(tmp_path: Path, case: str) -> None:
    what, message = BAD[case]
    path = write_tar(tmp_path / "bad.tar", GOOD if callable(what) else what)
    if callable(what):
        path.write_bytes(what(path.read_bytes()))
    if case == "a rare class":
        write_tar(tmp_path / "train.tar", samples(pictures(60), [0] * 60))
        path = path.rename(tmp_path / "test.tar")
        with pytest.raises(InputError, match="class '1' has no training images"):
            open_dataset(f"shards:{tmp_path}/t*.tar")
        return
    with pytest.raises(InputError, match=message) as found:
        open_dataset(f"shards:{path}")
    assert "\n" not in str(found.value) and "\x1b" not in str(found.value)


@pytest.mark.parametrize("side", [10_000, 30_000])
def test_a_bomb_is_refused_where_pictures_are_resized(tmp_path: Path, side: int) -> None:
    write_tar(tmp_path / "bomb.tar", [*GOOD, ("x.png", bomb(side))])
    with pytest.raises(InputError, match=r"x.png in .*is (far )?above the limit of 64 million"):
        open_dataset(f"shards:{tmp_path}/bomb.tar", size=8)


def test_hostile_members_do_nothing(tmp_path: Path) -> None:
    """Names that climb, links, devices and pickles beside good samples.

    Fails with: anything unpacked, a link followed, a pickle loaded.
    """
    (tmp_path / "secret.png").write_bytes(encoded(pictures(1, 9)[0]))
    pickled = b"cos\nsystem\n(S'touch " + str(tmp_path / "owned").encode() + b"'\ntR."
    hostile = [
        (special("link.png", tarfile.SYMTYPE, "../secret.png"), b""),
        (special("hard.png", tarfile.LNKTYPE, str(tmp_path / "secret.png")), b""),
        (special("says.png", tarfile.LNKTYPE, "0.png", size=5000), b""),  # has no content at all
        (special("dev.png", tarfile.CHRTYPE), b""),
        (special("pipe.png", tarfile.FIFOTYPE), b""),
        (special("folder.png", tarfile.DIRTYPE), b""),
        ("a.pkl", pickled),
        ("a.pyd", pickled),
        ("a.npy", pickled),
        ("../../climbs.png", encoded(pictures(1, 7)[0])),
        (f"{tmp_path}/absolute.png", encoded(pictures(1, 8)[0])),
    ]
    write_tar(tmp_path / "in" / "h.tar", [*hostile, *GOOD])
    before = {p for p in tmp_path.rglob("*") if "root" not in p.parts}
    data = open_dataset(f"shards:{tmp_path}/in/h.tar")
    assert sum(data.counts) == 62  # the two with odd names are pictures like others
    assert {p for p in tmp_path.rglob("*") if "root" not in p.parts} == before
    assert encoded(pictures(1, 9)[0]) not in rows(data.train.data)


def test_names_that_match_nothing(tmp_path: Path) -> None:
    for name, message in (
        (f"shards:{tmp_path}/*.tar", "no file matches"),
        ("shards:", "has no path; write shards:PATTERN"),
        (f"hf:{tmp_path}/*.parquet", "no file matches"),
        (f"{tmp_path}/a.tar", "such files are shards:"),
        (f"{tmp_path}/a.parquet", "such files are hf:"),
        ("hf:a/b/c/d", "neither a path nor a name"),
    ):
        with pytest.raises(InputError, match=message):
            open_dataset(name)
    with pytest.raises(InputError, match="--size 9: must be a positive multiple of 4"):
        open_dataset(write_shards(tmp_path / "s"), size=9)


def test_a_file_that_changes_in_use_is_noticed(tmp_path: Path) -> None:
    """Fails with: other pictures under the old labels."""
    data = open_dataset(write_shards(tmp_path / "s"))
    assert data.streams is not None
    write_shards(tmp_path / "s", seed=1)
    with pytest.raises(InputError, match=r"part-000.tar: was changed while it was in use"):
        data.streams.train.whole()


# -- parquet --------------------------------------------------------------------------------------


def write_parquet(
    path: Path, n: int = 120, seed: int = 0, group: int = 25, **other: object
) -> Path:
    """As Hugging Face's `datasets` writes images and labels."""
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": encoded(x), "path": f"{i}.png"} for i, x in enumerate(pictures(n, seed))]
    columns = {"image": images, "label": [i % 3 for i in range(n)], "text": ["x"] * n, **other}
    features = {"image": {"_type": "Image"}, "label": {"names": list("zyx"), "_type": "ClassLabel"}}
    told = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    table = pa.table(columns).replace_schema_metadata(told)
    parquet.write_table(table, path, row_group_size=group)
    return path


def test_parquet_holds_what_a_tar_does(tmp_path: Path) -> None:
    """The same pictures, labels and held-out ones; classes in the order that the file declares.

    Fails with: rows of the wrong group, classes sorted by name.
    """
    pytest.importorskip("pyarrow.parquet")
    write_parquet(tmp_path / "p" / "0.parquet", group=25)
    data = open_dataset(f"hf:{tmp_path}/p")
    other = open_dataset(write_shards(tmp_path / "s"))
    assert data.class_names == ("z", "y", "x") and data.name == f"hf:{tmp_path}/p"
    for ours, theirs in ((data.train, other.train), (data.test, other.test)):
        assert torch.equal(ours.data, theirs.data) and torch.equal(ours.labels, theirs.labels)
    assert data.streams is not None
    images, labels = data.streams.test.whole()
    assert np.array_equal(images, data.test.data) and np.array_equal(labels, data.test.labels)
    assert open_dataset(f"hf:{tmp_path}/p/*.parquet").fingerprint == data.fingerprint


def test_what_parquet_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow.parquet")
    from genzoo.data import parquet

    none = [{"bytes": None, "path": "/etc/passwd"}] * 120
    cases: list[tuple[dict[str, object], str]] = [
        ({"image": none}, "row 0 has no picture inside the file"),
        ({"image": [1] * 120}, "no column of pictures among image, label, text"),
        ({"label": [7] * 120}, "label 7 of row 0 is none of its classes"),
        ({"label": [0.5] * 120}, "neither a whole number nor a text"),
        ({"label": [None] * 60 + [1] * 60}, "some pictures have labels, but row 0 has none"),
    ]
    for k, (other, message) in enumerate(cases):
        path = write_parquet(tmp_path / f"{k}.parquet", **other)
        with pytest.raises(InputError, match=message):
            open_dataset(f"hf:{path}")
    path = write_parquet(tmp_path / "good.parquet")
    whole = path.read_bytes()
    for broken in (b"PAR1", whole[: len(whole) // 2], whole[:100] + b"\xff" * 200 + whole[300:]):
        path.write_bytes(broken)
        with pytest.raises(InputError, match="not a readable parquet file|is damaged|not a readab"):
            open_dataset(f"hf:{path}")
    path.write_bytes(whole)
    monkeypatch.setattr(parquet, "MAX_GROUP_ROWS", 20)
    with pytest.raises(InputError, match="a row group of 25 rows.*row_group_size=1000"):
        open_dataset(f"hf:{write_parquet(tmp_path / 'large.parquet')}")


def fake_hub(monkeypatch: pytest.MonkeyPatch, where: Path | Exception) -> list[dict[str, object]]:
    """A stand-in for the Hub, which tests cannot reach."""
    pytest.importorskip("huggingface_hub")
    asked: list[dict[str, object]] = []

    def snapshot_download(repo: str, **how: object) -> str:
        asked.append({"repo": repo, **how})
        if isinstance(where, Exception):
            raise where
        return str(where / ("converted" if how["revision"] else "main"))

    hub = types.ModuleType("huggingface_hub")
    hub.snapshot_download = snapshot_download  # type: ignore[attr-defined]
    hub.errors = sys.modules.get("huggingface_hub.errors") or __import__(  # type: ignore[attr-defined]
        "huggingface_hub.errors"
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    return asked


def test_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Splits by name, the Hub's own conversion where there is no parquet, configurations.

    Fails with: every configuration mixed, the conversion never asked for.
    """
    asked = fake_hub(monkeypatch, tmp_path / "hub")
    (tmp_path / "hub" / "main").mkdir(parents=True)
    converted = tmp_path / "hub" / "converted"
    write_parquet(converted / "one" / "train" / "0000.parquet", 60)
    write_parquet(converted / "one" / "test" / "0000.parquet", 30, seed=1)
    data = open_dataset("hf:owner/name")
    assert data.counts == (60, 30) and data.name == "hf:owner/name"
    assert [a["revision"] for a in asked] == [None, "refs/convert/parquet"]
    assert asked[0]["allow_patterns"] == ["*.parquet"]
    write_parquet(converted / "two" / "train" / "0000.parquet", 70)
    with pytest.raises(InputError, match="hf:owner/name/one, hf:owner/name/two"):
        open_dataset("hf:owner/name")
    assert sum(open_dataset("hf:owner/name/two").counts) == 70
    fake_hub(monkeypatch, ConnectionError("no network"))
    with pytest.raises(MachineError, match=r"cannot be fetched \(no network\).*hf:FOLDER"):
        open_dataset("hf:owner/name")


@pytest.mark.parametrize(
    "package, name",
    [("pyarrow.parquet", "hf:{}/p"), ("huggingface_hub", "hf:owner/name"), ("braceexpand", "x")],
)
def test_missing_packages_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, name: str
) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, package, None)
    name = f"shards:{tmp_path}/{{a,b}}.tar" if name == "x" else name.format(tmp_path)
    with pytest.raises(InputError, match=r"pip install 'genzoo\[stream\]'"):
        open_dataset(name)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_flipped_bytes_are_an_error_of_one_line_or_none(tmp_path: Path, kind: str) -> None:
    """Fails with: what a decoder raises let through."""
    if kind == "tar":
        path = write_tar(tmp_path / "x.tar", samples(pictures(60), [i % 2 for i in range(60)]))
    else:
        path = write_parquet(tmp_path / "x.parquet", 60)
    whole, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(400):
        raw = bytearray(whole)
        for place in rng.integers(len(raw), size=rng.integers(1, 4)):
            raw[place] = rng.integers(256)
        path.write_bytes(raw[: rng.integers(len(raw))] if rng.random() < 0.1 else raw)
        try:
            open_dataset(f"{'shards' if kind == 'tar' else 'hf'}:{path}")
        except GenzooError as error:
            refused += 1
            assert "\n" not in str(error)
    assert 100 < refused < 400


# -- processes ------------------------------------------------------------------------------------


def square(x: int) -> int | GenzooError:
    return InputError("none of three") if x == 3 else x * x


def dies(x: int) -> int:
    os.kill(os.getpid(), 9)
    return x


@pytest.mark.parametrize("workers", [0, 2])
def test_answers_come_in_order_and_errors_as_they_are(workers: int) -> None:
    """Fails with: a traceback in the message, the global generator moved."""
    state = torch.get_rng_state()
    answers = in_workers(square, iter(range(1, 9)), workers)
    assert [next(answers), next(answers)] == [1, 4]
    with pytest.raises(InputError) as found:
        next(answers)
    assert str(found.value) == "none of three"
    assert torch.equal(torch.get_rng_state(), state)


def test_a_killed_process_is_one_line() -> None:
    with pytest.raises(MachineError, match="a process that reads pictures was killed"):
        next(in_workers(dies, [1, 2], 1))


def mark(place: str) -> str:
    time.sleep(0.03)
    Path(place).touch()
    return place


@pytest.mark.parametrize(("ahead", "begun"), [(True, 10), (False, 8)])
def test_processes_take_turns_with_whoever_needs_all_cores(
    tmp_path: Path, ahead: bool, begun: int
) -> None:
    """Fails with: answers made, or in the making, while the last ones are used."""
    places = [str(tmp_path / f"{number:02d}") for number in range(20)]
    answers = in_workers(mark, places, 2, ahead=ahead)
    first = next(answers)
    assert ahead or len(list(tmp_path.iterdir())) == begun
    assert [first, next(answers), next(answers)] == places[:3]
    time.sleep(0.3)
    assert len(list(tmp_path.iterdir())) == begun
    assert list(answers) == places[3:]


def test_many_pictures_by_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails with: other pictures or another order than without processes."""
    name = write_shards(tmp_path / "s")
    data = open_dataset(name)
    monkeypatch.setattr(streamed, "SMALL", 0)
    monkeypatch.setattr("genzoo.data.stream.FEW", 10)
    assert FEW > 10
    other = open_dataset(name, root=tmp_path / "other")
    assert torch.equal(other.train.data, data.train.data)
    assert other.fingerprint == data.fingerprint


def test_opening_shards_imports_no_optional_package(tmp_path: Path) -> None:
    code = (
        "import sys, genzoo.data as d\n"
        f"d.open_dataset({write_shards(tmp_path / 's')!r})\n"
        "assert not {'pyarrow', 'webdataset', 'huggingface_hub', 'braceexpand'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
