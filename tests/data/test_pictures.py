"""Image files of every kind become the pixels that the stated policy says."""

from __future__ import annotations

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from genzoo.data import pictures
from genzoo.data.pictures import drop_color, find_images, read_image
from genzoo.errors import InputError

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (6, 8), dtype=np.uint8)
COLOR = RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)


def save(path, image, **options):
    Image.fromarray(image).save(path, **options)
    return path


def test_gray_and_color_survive_as_they_are(tmp_path):
    np.testing.assert_array_equal(read_image(save(tmp_path / "c.png", COLOR)), COLOR)
    gray = read_image(save(tmp_path / "g.png", GRAY))
    np.testing.assert_array_equal(gray, GRAY[..., None].repeat(3, 2))


def test_transparency_lies_on_white(tmp_path):
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 3] = 0, 128, 255
    red = read_image(save(tmp_path / "a.png", rgba))[0]
    assert red[0].tolist() == [255] * 3 and red[2].tolist() == [0] * 3
    assert abs(int(red[1, 0]) - 127) <= 1


def test_transparent_gray_and_palette_lie_on_white_too(tmp_path):
    la = Image.fromarray(np.full((2, 2), 10, np.uint8)).convert("LA")
    la.putalpha(0)
    la.save(tmp_path / "la.png")
    assert (read_image(tmp_path / "la.png") == 255).all()
    palette = Image.fromarray(np.zeros((2, 2), np.uint8), "P")
    palette.putpalette([9, 9, 9, 200, 0, 0])
    palette.save(tmp_path / "p.png", transparency=0)
    assert (read_image(tmp_path / "p.png") == 255).all()
    palette.save(tmp_path / "q.png")
    assert (read_image(tmp_path / "q.png") == 9).all()


def test_sixteen_bits_are_scaled(tmp_path):
    wide = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    assert read_image(save(tmp_path / "w.png", wide))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_other_modes(tmp_path):
    save(tmp_path / "one.png", GRAY > 127)
    assert set(np.unique(read_image(tmp_path / "one.png"))) == {0, 255}
    Image.fromarray(COLOR).convert("CMYK").save(tmp_path / "cmyk.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "cmyk.tif"), COLOR)
    save(tmp_path / "float.tif", GRAY.astype(np.float32))
    with pytest.raises(InputError, match="float.tif"):
        read_image(tmp_path / "float.tif")


def test_orientation_is_undone(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    save(tmp_path / "turned.png", COLOR, exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "turned.png"), np.rot90(COLOR, -1))


@pytest.mark.parametrize("image", [COLOR, GRAY])
def test_an_orientation_behind_the_pixels_is_undone(tmp_path, image):
    """Fails with: what a PNG says being asked before all of it was read."""
    exif = Image.Exif()
    exif[0x0112] = 6
    whole = save(tmp_path / "turned.png", image, exif=exif).read_bytes()
    start = whole.index(b"eXIf") - 4
    stop = start + 12 + int.from_bytes(whole[start : start + 4], "big")
    end = whole.index(b"IEND") - 4
    late = whole[:start] + whole[stop:end] + whole[start:stop] + whole[end:]
    (tmp_path / "late.png").write_bytes(late)
    found = read_image(tmp_path / "late.png")
    assert found.shape == (8, 6, 3)
    np.testing.assert_array_equal(found, read_image(tmp_path / "turned.png"))


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.fromarray(np.full((4, 4), v, np.uint8)) for v in (40, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (read_image(tmp_path / "a.gif") == 40).all()


def test_the_center_square_is_resized(tmp_path):
    wide = np.full((16, 64, 3), 255, np.uint8)
    wide[:, 24:40] = 7
    assert (read_image(save(tmp_path / "w.png", wide), 8) == 7).all()
    tall = wide.transpose(1, 0, 2)
    assert read_image(save(tmp_path / "t.png", tall), 32).shape == (32, 32, 3)
    exact = RNG.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    np.testing.assert_array_equal(read_image(save(tmp_path / "e.png", exact), 12), exact)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_corrupt_files_are_named(tmp_path, content):
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(InputError, match="bad.png: .*(empty|not a readable image)"):
        read_image(tmp_path / "bad.png")


def test_a_truncated_file_is_named(tmp_path):
    whole = save(tmp_path / "cut.png", RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    whole.write_bytes(whole.read_bytes()[:3000])
    with pytest.raises(InputError, match="cut.png: not a readable image"):
        read_image(whole)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path):
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(InputError, match="bomb.png"):
        read_image(tmp_path / "bomb.png")


def test_the_limit_of_pixels(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", COLOR)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 48)
    read_image(path)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 47)
    with pytest.raises(InputError, match="8x6 is above the limit"):
        read_image(path)


def test_things_that_are_no_files(tmp_path):
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("link.png", "pipe.png", "absent.png"):
        with pytest.raises(InputError, match=f"{name}: not a file"):
            read_image(tmp_path / name)


def test_no_permission(tmp_path, monkeypatch):
    path = save(tmp_path / "a.png", COLOR)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(InputError, match="a.png: no permission"):
        read_image(path)


def test_color_is_dropped_only_where_all_are_gray():
    gray = GRAY[None, ..., None].repeat(3, 3)
    assert drop_color(np.concatenate([gray, gray])).shape == (2, 6, 8, 1)
    assert drop_color(np.concatenate([gray, COLOR[None]])).shape == (2, 6, 8, 3)


# -- folders ------------------------------------------------------------------------------


def test_files_by_name_without_hidden_and_other_ones(tmp_path):
    for name in ("b.png", "a.JPG", "c.webp", ".hidden.png"):
        save(tmp_path / name, COLOR)
    (tmp_path / "readme.txt").write_text("no image")
    (tmp_path / ".cache").mkdir()
    save(tmp_path / ".cache" / "d.png", COLOR)
    found = find_images(tmp_path)
    assert [path.name for path in found.paths] == ["a.JPG", "b.png", "c.webp"]
    assert found.labels == () and found.class_names == ()


def test_sub_folders_are_classes(tmp_path):
    for place in ("dog/1.png", "cat/deep/2.png", "cat/1.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        save(tmp_path / place, COLOR)
    (tmp_path / "ant").mkdir()
    found = find_images(tmp_path)
    assert found.class_names == ("cat", "dog") and found.labels == (0, 0, 1)
    assert [str(p.relative_to(tmp_path)) for p in found.paths] == [
        "cat/1.png",
        "cat/deep/2.png",
        "dog/1.png",
    ]


def test_one_sub_folder_is_no_class(tmp_path):
    (tmp_path / "only").mkdir()
    save(tmp_path / "only" / "1.png", COLOR)
    assert find_images(tmp_path).class_names == () and len(find_images(tmp_path).paths) == 1


def test_links_are_followed_but_never_in_circles(tmp_path):
    outside, inside = tmp_path / "outside", tmp_path / "inside"
    outside.mkdir()
    inside.mkdir()
    save(outside / "1.png", COLOR)
    (inside / "file.png").symlink_to(outside / "1.png")
    assert len(find_images(inside).paths) == 1
    (inside / "file.png").unlink()
    (inside / "a").symlink_to(outside)
    (outside / "loop").symlink_to(inside)
    assert [p.name for p in find_images(inside).paths] == ["1.png"]


def test_folders_that_cannot_be_used(tmp_path):
    with pytest.raises(InputError, match="no images here"):
        find_images(tmp_path)
    with pytest.raises(InputError, match="there is no such folder"):
        find_images(tmp_path / "absent")
    file = save(tmp_path / "a.png", COLOR)
    with pytest.raises(InputError, match="is a file, not a folder"):
        find_images(file)
    (tmp_path / "class").mkdir()
    save(tmp_path / "class" / "b.png", COLOR)
    with pytest.raises(InputError, match="both in it and in its sub-folder 'class'"):
        find_images(tmp_path)
