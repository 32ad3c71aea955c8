"""Image files of every mode become the bytes that they show, or one line that names the file."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apq_tune.data.folder import read_folder
from apq_tune.data.image import decode, look, shown
from apq_tune.errors import RunError

RAMP = np.linspace(0, 255, 64).round().astype(np.uint8).reshape(8, 8)
"""What every grey image below shows."""

COLOURS = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)


def sixteen(kind: str = "<u2") -> Image.Image:
    return Image.fromarray((RAMP * np.float64(257)).astype(kind))


def alpha_of_ramp(colour: tuple[int, int, int]) -> Image.Image:
    image = Image.new("RGBA", (8, 8), colour)
    image.putalpha(Image.fromarray(RAMP))
    return image


def tiff(path: Path, values: np.ndarray, tags: dict[int, int]) -> None:
    """A TIFF file of one strip, written by hand: Pillow does not write these kinds."""
    entries = {
        256: 8,
        257: 8,
        258: 8 * values.itemsize,
        259: 1,
        262: 1,
        273: 0,
        277: 1,
        278: 8,
        279: values.nbytes,
    } | tags
    offset = 8 + 2 + 12 * len(entries) + 4
    entries[273] = offset
    head = struct.pack("<2sHIH", b"II", 42, 8, len(entries))
    fields = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(entries.items()))
    path.write_bytes(head + fields + struct.pack("<I", 0) + values.tobytes())


GREY: dict[str, Callable[[Path], object]] = {
    "eight.png": lambda p: Image.fromarray(RAMP).save(p),
    "sixteen.png": lambda p: sixteen().save(p),
    "sixteen.tif": lambda p: sixteen().save(p),
    "sixteen_big.tif": lambda p: sixteen(">u2").save(p),
    "thirty_two.tif": lambda p: Image.fromarray(RAMP.astype(np.int32) * 257).save(p),
    "bytes_in_int32.tif": lambda p: Image.fromarray(RAMP.astype(np.int32)).save(p),
    "uint32.tif": lambda p: tiff(p, (RAMP.astype(np.float64) / 255 * (2**32 - 1)).astype("<u4"), {339: 1}),
    "white_is_zero.tif": lambda p: tiff(p, ((255 - RAMP) * np.float64(257)).astype("<u2"), {262: 0}),
    "unit_float.tif": lambda p: Image.fromarray((RAMP / 255).astype(np.float32)).save(p),
    "byte_float.tif": lambda p: Image.fromarray(RAMP.astype(np.float32)).save(p),
    "sixteen.pgm": lambda p: p.write_bytes(b"P5 8 8 65535\n" + (RAMP * np.float64(257)).astype(">u2").tobytes()),
    "twelve.pgm": lambda p: p.write_bytes(b"P5 8 8 4095\n" + (RAMP * np.float64(4095 / 255)).astype(">u2").tobytes()),
    "float.pfm": lambda p: p.write_bytes(b"Pf\n8 8\n-1.0\n" + (RAMP / 255).astype("<f4")[::-1].tobytes()),
    "sixteen.jp2": lambda p: sixteen().save(p),
    "alpha.png": lambda p: Image.merge("LA", [Image.fromarray(RAMP), Image.new("L", (8, 8), 255)]).save(p),
    "palette.png": lambda p: Image.fromarray(RAMP).convert("P").save(p),
    "grey.gif": lambda p: Image.fromarray(RAMP).save(p),
    "grey.qoi_as.bmp": lambda p: Image.fromarray(RAMP).save(p),
    "black_shape.png": lambda p: Image.merge("LA", [Image.new("L", (8, 8), 0), Image.fromarray(255 - RAMP)]).save(p),
    "white_shape.png": lambda p: Image.merge("LA", [Image.new("L", (8, 8), 255), Image.fromarray(RAMP)]).save(p),
    "exif_of_png.png": lambda p: Image.fromarray(np.rot90(RAMP).copy()).save(p, exif=orientation(6)),
}


def orientation(number: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


@pytest.mark.parametrize("name", GREY)
def test_a_grey_ramp_is_the_same_ramp_in_every_mode(tmp_path: Path, name: str) -> None:
    GREY[name](tmp_path / name)
    file = str(tmp_path / name)
    assert np.abs(decode(file, 1, 8)[0].astype(int) - RAMP).max() <= 1
    assert look(file).grey
    assert look(file).side == 8
    colour = decode(file, 3, 8)
    assert (colour == colour[:1]).all()


def cmyk(path: Path) -> None:
    Image.fromarray(COLOURS).convert("CMYK").save(path)


COLOUR: dict[str, tuple[Callable[[Path], object], int]] = {  # and how far a colour may be off
    "plain.png": (lambda p: Image.fromarray(COLOURS).save(p), 0),
    "opaque.png": (lambda p: Image.fromarray(COLOURS).convert("RGBA").save(p), 0),
    "all_transparent.png": (lambda p: (i := Image.fromarray(COLOURS), i.putalpha(0), i.save(p)), 0),
    "cmyk.tif": (cmyk, 1),
    "lossless.webp": (lambda p: Image.fromarray(COLOURS).save(p, lossless=True), 0),
    "palette.png": (lambda p: Image.fromarray(COLOURS).quantize(64).save(p), 0),
    "palette.gif": (lambda p: Image.fromarray(COLOURS).quantize(64).save(p), 0),
    "turned.tif": (lambda p: Image.fromarray(np.rot90(COLOURS).copy()).save(p, exif=orientation(6)), 0),
    "lab.tif": (lambda p: lab(p), 30),
    "sixteen_rgb.png": (lambda p: png16(p), 0),
}


def lab(path: Path) -> None:
    from PIL import ImageCms

    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    ImageCms.profileToProfile(Image.fromarray(COLOURS), *profiles, outputMode="LAB").save(path)  # type: ignore[union-attr]


def png16(path: Path) -> None:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in COLOURS * np.uint16(257))
    head = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("name", COLOUR)
def test_colours_are_the_same_colours_in_every_mode(tmp_path: Path, name: str) -> None:
    save, off = COLOUR[name]
    save(tmp_path / name)
    file = str(tmp_path / name)
    assert np.abs(decode(file, 3, 8).transpose(1, 2, 0).astype(int) - COLOURS).max() <= off
    assert not look(file).grey


@pytest.mark.parametrize(("colour", "background"), [((0, 0, 0), 255), ((255, 255, 255), 0), ((200, 0, 0), 255)])
def test_a_shape_in_the_alpha_channel_is_seen(tmp_path: Path, colour: tuple[int, int, int], background: int) -> None:
    alpha_of_ramp(colour).save(tmp_path / "a.png")
    share = RAMP[..., None] / 255
    expected = (share * colour + (1 - share) * background).transpose(2, 0, 1)
    assert np.abs(decode(str(tmp_path / "a.png"), 3, 8) - expected).max() <= 1
    assert look(str(tmp_path / "a.png")).alpha


def test_a_transparent_colour_of_a_palette_is_white(tmp_path: Path) -> None:
    image = Image.new("P", (2, 2))
    image.putpalette([10, 20, 30, 0, 0, 0])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "a.gif", transparency=1)
    assert decode(str(tmp_path / "a.gif"), 3, 2)[:, 0].T.tolist() == [[10, 20, 30], [255, 255, 255]]


@pytest.mark.parametrize("number", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
def test_cameras_orientation_is_applied(tmp_path: Path, number: int, kind: str) -> None:
    upright = np.zeros((16, 16), np.uint8)
    upright[:8, :12] = 200
    turns = [lambda a: a, np.fliplr, lambda a: np.rot90(a, 2), np.flipud, np.transpose]
    turns += [np.rot90, lambda a: np.rot90(a, 2).T, lambda a: np.rot90(a, -1)]  # the inverse of what a viewer does
    stored = Image.fromarray(np.ascontiguousarray(turns[number - 1](upright)))
    stored.save(tmp_path / f"a.{kind}", exif=orientation(number), quality=95)
    assert np.abs(decode(str(tmp_path / f"a.{kind}"), 1, 16)[0].astype(int) - upright).max() < 20


def test_ordinary_images_are_what_pillow_and_torchvision_make_of_them(tmp_path: Path) -> None:
    from torchvision.transforms import v2

    noise = np.random.default_rng(1).integers(0, 255, (40, 56, 3)).astype(np.uint8)
    for name, mode, channels in (("a.jpg", "RGB", 3), ("b.png", "RGB", 1), ("c.jpg", "L", 3), ("d.png", "L", 1)):
        Image.fromarray(noise).convert(mode).save(tmp_path / name)
        image = Image.open(tmp_path / name).convert("L" if channels == 1 else "RGB")
        expected = np.asarray(v2.functional.center_crop(v2.functional.resize(image, [24]), [24, 24]))
        assert np.array_equal(
            decode(str(tmp_path / name), channels, 24), expected.reshape(24, 24, -1).transpose(2, 0, 1)
        )


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def short_idat(content: bytes) -> bytes:
    at = content.index(b"IDAT") - 4
    return content[:at] + struct.pack(">I", struct.unpack(">I", content[at : at + 4])[0] - 20) + content[at + 4 :]


NOISE = np.random.default_rng(2).integers(0, 255, (24, 24)).astype(np.uint8)

BROKEN: dict[str, Callable[[Path], object]] = {
    "short_idat.png": lambda p: (Image.fromarray(NOISE).save(p), p.write_bytes(short_idat(p.read_bytes()))),
    "odd_header.pgm": lambda p: p.write_bytes(b"P5 24x24 255\n" + NOISE.tobytes()),
    "no_maximum.pgm": lambda p: p.write_bytes(b"P5 24 24 \xff\n" + NOISE.tobytes()),
    "huge_maximum.pgm": lambda p: p.write_bytes(b"P5 24 24 99999999999\n" + NOISE.tobytes()),
    "nothing.ppm": lambda p: p.write_bytes(b"P6 0 0 255\n"),
    "empty.jpg": lambda p: p.write_bytes(b""),
    "text.jpg": lambda p: p.write_text("version https://git-lfs.github.com/spec/v1"),
    "page.jpg": lambda p: p.write_text("<html>404</html>"),
    "program.jpg": lambda p: p.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"),
    "bomb.pbm": lambda p: p.write_bytes(b"P4 60000 60000\n"),
    "link.png": lambda p: p.symlink_to("nowhere.png"),
    "minus.tif": lambda p: Image.fromarray(RAMP.astype(np.float32) - 100).save(p),
    "nan.tif": lambda p: Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(p),
    "beyond.tif": lambda p: Image.fromarray(RAMP.astype(np.float32) * 1e30).save(p),
} | {
    f"cut.{kind}": lambda p: (Image.fromarray(NOISE).convert("RGB").save(p), p.write_bytes(cut(p.read_bytes())))
    for kind in ("jpg", "png", "bmp", "tif", "webp", "gif", "ppm", "jp2", "tga", "avif")
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_named_in_one_line(tmp_path: Path, name: str) -> None:
    BROKEN[name](tmp_path / name)
    with pytest.raises(RunError) as caught:
        decode(str(tmp_path / name), 1, 8)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["png", "jpg", "gif", "tif", "bmp", "ppm", "webp", "tga", "jp2"])
def test_damaged_at_random_an_image_is_read_or_refused(tmp_path: Path, kind: str) -> None:
    file, rng = tmp_path / f"a.{kind}", np.random.default_rng(3)
    Image.fromarray(NOISE).convert("RGB").save(file)
    content, refused = file.read_bytes(), 0
    for _ in range(60):
        damaged = np.frombuffer(content, np.uint8).copy()
        places = rng.integers(0, min(len(damaged), 120), 4)
        damaged[places] = rng.integers(0, 256, 4)
        file.write_bytes(damaged.tobytes())
        try:
            look(str(file))
            assert decode(str(file), 3, 8).shape == (3, 8, 8)
        except RunError as error:
            refused += 1
            assert str(file) in str(error)
    assert refused


def test_one_white_for_all_floats_and_integers_of_a_folder(tmp_path: Path) -> None:
    for name, most in (("a", 10_000), ("b", 60_000)):
        (tmp_path / name).mkdir()
        for k in range(5):
            Image.fromarray(np.full((8, 8), most - k, np.int32)).save(tmp_path / name / f"{k}.tif")
    folder = read_folder(tmp_path)
    assert folder.white() == 65535
    train = folder.data(8, 1, white=folder.white()).train
    levels = {int(label): set(np.unique(train.images[train.labels == label])) for label in (0, 1)}  # type: ignore[union-attr]
    assert levels == {0: {39}, 1: {233}}


def test_slender_images_do_not_take_gigabytes(tmp_path: Path) -> None:
    pixels = np.zeros((2, 40_000), np.uint8)
    pixels[:, 19_999:20_001] = 77
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (decode(str(tmp_path / "a.png"), 1, 224) == 77).all()


def test_names_of_any_bytes_are_shown_in_one_line() -> None:
    assert shown("a/caf\udce9\n.png") == "a/caf\\xe9\\n.png"
    assert shown("a/café.png") == "a/café.png"
