"""Samples on disk: what is written is read back, and what cannot be samples is refused."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from genzoo import samples
from genzoo.errors import InputError
from genzoo.samples import SampleSet, image_grid, read_samples

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (12, 8, 8, 1), dtype=np.uint8)
COLOR = RNG.integers(0, 256, (12, 4, 6, 3), dtype=np.uint8)
POINTS = RNG.normal(size=(12, 2)).astype(np.float32)
LABELS = np.arange(12, dtype=np.int64) % 3


def same(a: SampleSet, b: SampleSet) -> bool:
    return all(
        np.array_equal(getattr(a, k), getattr(b, k))
        if getattr(a, k) is not None
        else getattr(b, k) is None
        for k in ("images", "points", "labels")
    )


SETS = [
    SampleSet(images=GRAY),
    SampleSet(images=COLOR, labels=LABELS),
    SampleSet(points=POINTS),
]


@pytest.mark.parametrize("given", SETS)
def test_npz_round_trip(tmp_path, given):
    given.write_npz(tmp_path / "new" / "s.npz")
    back = read_samples(tmp_path / "new" / "s.npz")
    assert same(given, back) and len(back) == 12
    for name in ("images", "points", "labels"):
        array = getattr(back, name)
        assert array is None or (
            array.dtype == getattr(given, name).dtype and array.flags.writeable
        )


def test_equal_samples_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        SETS[1].write_npz(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    dates = {info.date_time for info in zipfile.ZipFile(tmp_path / "a").infolist()}
    assert dates == {(1980, 1, 1, 0, 0, 0)}


def test_numpy_reads_what_is_written_without_pickle(tmp_path):
    SETS[1].write_npz(tmp_path / "s.npz")
    with np.load(tmp_path / "s.npz", allow_pickle=False) as file:
        assert set(file) == {"images", "labels"}
        np.testing.assert_array_equal(file["images"], COLOR)


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"images": GRAY[..., 0]}, SETS[0]),
        ({"images": GRAY.astype(">i4")}, SETS[0]),
        ({"images": np.asfortranarray(COLOR), "labels": LABELS.astype(np.uint8)}, SETS[1]),
        ({"arr_0": COLOR, "arr_1": LABELS}, SETS[1]),
        ({"points": POINTS.astype(np.float64)}, SETS[2]),
        ({"arr_0": POINTS, "other": np.array([{}], object)}, SETS[2]),
    ],
)
def test_other_forms_are_understood(tmp_path, arrays, expected):
    np.savez_compressed(tmp_path / "s.npz", **arrays)
    assert same(read_samples(tmp_path / "s.npz"), expected)


def test_npy(tmp_path):
    np.save(tmp_path / "s.npy", COLOR)
    assert np.array_equal(read_samples(tmp_path / "s.npy").images, COLOR)
    np.save(tmp_path / "p.npy", POINTS)
    assert np.array_equal(read_samples(tmp_path / "p.npy").points, POINTS)


BAD = {
    "no samples": ({"labels": LABELS}, "holds labels, but neither 'images' nor 'points'"),
    "nothing": ({}, "holds nothing"),
    "both": ({"images": GRAY, "points": POINTS}, "either images or points"),
    "floats": ({"images": GRAY / 255}, "images are float64.*scale to 0 … 255"),
    "booleans": ({"images": GRAY > 3}, "images are bool"),
    "too large": ({"images": GRAY.astype(np.int64) + 1}, "beyond 0 … 255"),
    "negative": ({"images": GRAY.astype(np.int16) - 300}, "beyond 0 … 255"),
    "channels first": ({"images": COLOR.transpose(0, 3, 1, 2)}, "transpose"),
    "four channels": ({"images": np.zeros((3, 8, 8, 4), np.uint8)}, "C = 1 or 3"),
    "flat": ({"images": GRAY.reshape(12, 64)}, r"shape \(12, 64\)"),
    "no images": ({"images": GRAY[:0]}, "there is nothing in them"),
    "no pixels": ({"images": np.zeros((3, 0, 8, 1), np.uint8)}, "there is nothing in them"),
    "objects": ({"images": np.array([{}, []], object)}, "'images' holds Python objects"),
    "texts": ({"points": np.array([["a", "b"]])}, "points are <U1"),
    "complex": ({"points": POINTS * 1j}, "points are complex64"),
    "one number each": ({"points": np.zeros(5, np.float32)}, r"not \(N, D\)"),
    "not a number": ({"points": np.array([[0, 1], [np.nan, 2]])}, r"number 1, \(nan, 2\)"),
    "infinite": ({"points": np.array([[0, 1e300]])}, "finite"),
    "label count": ({"images": GRAY, "labels": LABELS[:5]}, "there are 12 samples"),
    "label type": ({"images": GRAY, "labels": LABELS / 1}, "labels are float64"),
    "label sign": ({"images": GRAY, "labels": LABELS - 1}, "-1 … 1, not 0 or more"),
    "label objects": ({"images": GRAY, "labels": np.array([{}] * 12)}, "'labels' holds Python"),
}


@pytest.mark.parametrize("case", BAD)
def test_arrays_that_are_no_samples(tmp_path, case):
    arrays, message = BAD[case]
    path = tmp_path / "bad.npz"
    np.savez(path, **arrays)
    with pytest.raises(InputError, match=message) as caught:
        read_samples(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_objects_are_never_unpickled(tmp_path):
    class Bomb:
        def __reduce__(self):
            return open, (str(tmp_path / "exploded"), "w")

    np.save(tmp_path / "bomb.npy", np.array([Bomb()], object), allow_pickle=True)
    (tmp_path / "exploded").unlink(missing_ok=True)
    with pytest.raises(InputError, match="Python objects, which are never loaded"):
        read_samples(tmp_path / "bomb.npy")
    assert not (tmp_path / "exploded").exists()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_files_that_are_cut_off_or_no_files_of_samples(tmp_path):
    SETS[0].write_npz(tmp_path / "whole.npz")
    whole = (tmp_path / "whole.npz").read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for name, content, message in [
        ("cut.npz", whole[:500], "damaged"),
        ("flipped.npz", bytes(flipped), "damaged"),
        ("cut.npy", npy(GRAY)[:-7], "cut off or damaged"),
        ("long.npy", npy(GRAY) + b"more", "cut off or damaged"),
        ("head.npy", npy(GRAY)[:20], "not in NumPy's .npy format"),
        ("empty.npz", b"", "this file is empty"),
        ("text.npz", b"hello", "neither an .npz, an .npy nor a folder"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name}: .*{message}"):
            read_samples(tmp_path / name)
    with pytest.raises(InputError, match="there is no such file or folder"):
        read_samples(tmp_path / "absent.npz")


def test_a_member_that_is_no_array(tmp_path):
    with zipfile.ZipFile(tmp_path / "s.npz", "w") as archive:
        archive.writestr("images.npy", b"no array")
    with pytest.raises(InputError, match="'images' is not in NumPy's .npy format"):
        read_samples(tmp_path / "s.npz")


def test_a_header_that_promises_too_much_takes_no_memory(tmp_path):
    head = b"{'descr': '|u1', 'fortran_order': False, 'shape': (9999999999, 999, 999, 3), }\n"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + b"\0" * 100
    (tmp_path / "s.npy").write_bytes(content)
    with pytest.raises(InputError, match="cut off or damaged"):
        read_samples(tmp_path / "s.npy")


def test_a_zip_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "s.npz", images=np.zeros((1000, 32, 32, 3), np.uint8))
    assert (tmp_path / "s.npz").stat().st_size < 10_000
    assert len(read_samples(tmp_path / "s.npz")) == 1000
    monkeypatch.setattr(samples, "MAX_BYTES", 1 << 20)
    with pytest.raises(InputError, match="holds more than"):
        read_samples(tmp_path / "s.npz")


def test_no_permission(tmp_path, monkeypatch):
    SETS[0].write_npz(tmp_path / "s.npz")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(InputError, match="s.npz: no permission"):
        read_samples(tmp_path / "s.npz")


# -- folders ------------------------------------------------------------------------------


def test_folder_round_trip(tmp_path):
    SETS[0].write_folder(tmp_path / "f")
    assert same(read_samples(tmp_path / "f"), SETS[0])
    SETS[1].write_folder(tmp_path / "g")
    back = read_samples(tmp_path / "g")
    order = np.argsort(LABELS, kind="stable")
    assert np.array_equal(back.images, COLOR[order]) and np.array_equal(back.labels, LABELS[order])


def test_folders_by_class_name(tmp_path):
    names = ("T-shirt/top", "2", ".net")
    SETS[1].write_folder(tmp_path / "f", names)
    assert {p.name for p in (tmp_path / "f").iterdir()} == {"T-shirt-top", "2", "net"}
    labels = read_samples(tmp_path / "f", names).labels
    assert sorted(labels.tolist()) == sorted(LABELS.tolist())
    assert read_samples(tmp_path / "f").labels is None
    with pytest.raises(InputError, match="unknown class folder 'net'; did you mean 'nett'"):
        read_samples(tmp_path / "f", ("T-shirt/top", "2", "nett"))


def test_numbers_are_labels_where_they_are_no_class_names(tmp_path):
    for name in ("7", "03"):
        (tmp_path / name).mkdir()
        Image.fromarray(GRAY[0, ..., 0]).save(tmp_path / name / "1.png")
    assert read_samples(tmp_path).labels.tolist() == [3, 7]
    assert read_samples(tmp_path, ("cat", "dog")).labels.tolist() == [3, 7]
    assert read_samples(tmp_path, ("7", "03")).labels.tolist() == [1, 0]


def test_folders_that_are_no_samples(tmp_path):
    with pytest.raises(InputError, match="no images here"):
        read_samples(tmp_path)
    for i, size in enumerate([8, 8, 9]):
        Image.fromarray(np.zeros((size, 8), np.uint8)).save(tmp_path / f"{i}.png")
    with pytest.raises(InputError, match="2.png: 8x9 pixels, but 0.png is 8x8 pixels"):
        read_samples(tmp_path)
    (tmp_path / "2.png").write_bytes(b"")
    with pytest.raises(InputError, match="2.png: this file is empty"):
        read_samples(tmp_path)


def test_nothing_is_overwritten_by_a_folder(tmp_path):
    (tmp_path / "keep").write_text("mine")
    with pytest.raises(InputError, match="exists and is not empty"):
        SETS[0].write_folder(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["keep"]
    (tmp_path / "empty").mkdir()
    SETS[0].write_folder(tmp_path / "empty")
    assert len(list((tmp_path / "empty").iterdir())) == 12
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "keep"]
    with pytest.raises(InputError, match="points cannot be written as a folder"):
        SETS[2].write_folder(tmp_path / "p")


# -- pictures -----------------------------------------------------------------------------


def test_grid_shows_each_image_enlarged_in_its_place():
    grid = image_grid(GRAY[:5], columns=2)
    assert grid.shape == (3 * 66 + 2, 2 * 66 + 2, 1)
    for i in range(5):
        y, x = (i // 2) * 66 + 2, (i % 2) * 66 + 2
        assert np.array_equal(grid[y : y + 64 : 8, x : x + 64 : 8], GRAY[i])
    assert (grid[2 * 66 + 2 :, 68:] == 255).all()
    large = np.zeros((3, 100, 80, 3), np.uint8)
    assert image_grid(large).shape == (2 * 102 + 2, 2 * 82 + 2, 3)
    with pytest.raises(InputError, match="0 columns"):
        image_grid(GRAY, columns=0)


@pytest.mark.parametrize("given", SETS)
def test_grid_png(tmp_path, given):
    given.write_grid_png(tmp_path / "g.png", columns=3, limit=9)
    with Image.open(tmp_path / "g.png") as image:
        image.load()
        assert image.format == "PNG"
        if given.images is not None:
            expected = image_grid(given.images[:9], 3)
            assert np.array_equal(np.asarray(image).reshape(expected.shape), expected)
        else:
            assert len(np.unique(np.asarray(image))) > 2


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "s.npz"
    SETS[0].write_npz(path)
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(samples.MachineError, match="s.npz.*no space left"):
        SETS[1].write_npz(path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_import_needs_no_torch_and_no_matplotlib():
    code = "import sys, genzoo.samples; assert not {'torch', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
