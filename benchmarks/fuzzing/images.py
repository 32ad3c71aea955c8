"""One picture in thirty kinds of files: each must be read as the picture, or be refused by a message with its name."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fuzzing.harness import PROBE, Case, Judge, Said
from fuzzing.material import CLASSES, FAST, PER_CLASS, picture

SAME = 24.0
"""Maximum mean difference of equal pictures in grey levels of 255, as JPEG and palettes are lossy."""

Grey = NDArray[np.uint8]
Write = Callable[[Grey], bytes]


def saved(image: Any, kind: str, **options: Any) -> bytes:
    """Bytes of an image saved in a format of Pillow."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def of(pixels: NDArray[Any], mode: str | None = None) -> Any:
    """Image of an array, converted to another mode."""
    image = Image.fromarray(pixels)
    return image if mode is None else image.convert(mode)


def alpha(pixels: Grey) -> NDArray[np.uint8]:
    """Black image with the picture in its alpha channel, which is visible on white."""
    return np.dstack([np.zeros_like(pixels)] * 3 + [255 - pixels])


def rotated(pixels: Grey) -> bytes:
    """Photograph of a rotated camera, with EXIF orientation 6."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(of(np.rot90(pixels).copy()), "JPEG", quality=95, exif=exif)


def big_endian(pixels: Grey) -> bytes:
    """TIFF file as written by some microscopes."""
    return saved(Image.frombytes("I;16B", pixels.shape[::-1], (pixels.astype(">u2") * 257).tobytes()), "TIFF")


def animated(pixels: Grey) -> bytes:
    """Animation of two frames, of which the first is the picture."""
    return saved(of(pixels), "GIF", save_all=True, append_images=[of(255 - pixels)])


def cut(content: bytes, share: float) -> bytes:
    """First part of a file."""
    return content[: int(share * len(content))]


def png(pixels: Grey) -> bytes:
    """Plain PNG file."""
    return saved(of(pixels), "PNG")


def header_only(pixels: Grey) -> bytes:
    """PNG file whose first chunk of data states too small a length."""
    content = bytearray(png(pixels))
    place = content.index(b"IDAT") - 4
    length = int.from_bytes(content[place : place + 4], "big")
    content[place : place + 4] = max(0, length - 20).to_bytes(4, "big")
    return bytes(content)


PICTURES: Mapping[str, tuple[str, Write]] = {
    "grey PNG": ("png", png),
    "16-bit grey PNG": ("png", lambda p: saved(of(p.astype(np.uint16) * 257), "PNG")),
    "16-bit grey TIFF": ("tif", lambda p: saved(of(p.astype(np.uint16) * 257), "TIFF")),
    "big-endian 16-bit TIFF": ("tif", big_endian),
    "32-bit integer TIFF": ("tif", lambda p: saved(of(p.astype(np.int32) * 257), "TIFF")),
    "float TIFF, 0 to 1": ("tif", lambda p: saved(of(p.astype(np.float32) / 255), "TIFF")),
    "float TIFF, 0 to 255": ("tif", lambda p: saved(of(p.astype(np.float32)), "TIFF")),
    "colour PNG": ("png", lambda p: saved(of(p, "RGB"), "PNG")),
    "PNG with a palette": ("png", lambda p: saved(of(p, "P"), "PNG")),
    "opaque RGBA PNG": ("png", lambda p: saved(of(p, "RGBA"), "PNG")),
    "opaque LA PNG": ("png", lambda p: saved(of(p, "LA"), "PNG")),
    "shape in alpha, RGBA PNG": ("png", lambda p: saved(Image.fromarray(alpha(p), "RGBA"), "PNG")),
    "shape in alpha, RGBA WebP": ("webp", lambda p: saved(Image.fromarray(alpha(p), "RGBA"), "WEBP", lossless=True)),
    "grey JPEG": ("jpg", lambda p: saved(of(p), "JPEG", quality=95)),
    "JPEG called .JPEG": ("JPEG", lambda p: saved(of(p), "JPEG", quality=95)),
    "JPEG called .jfif": ("jfif", lambda p: saved(of(p), "JPEG", quality=95)),
    "CMYK JPEG": ("jpg", lambda p: saved(of(p, "RGB").convert("CMYK"), "JPEG", quality=95)),
    "JPEG turned by EXIF": ("jpg", rotated),
    "PNG called .jpg": ("jpg", png),
    "BMP": ("bmp", lambda p: saved(of(p), "BMP")),
    "GIF": ("gif", lambda p: saved(of(p), "GIF")),
    "animated GIF": ("gif", animated),
    "PGM": ("pgm", lambda p: saved(of(p), "PPM")),
    "plain-text PGM": ("pgm", lambda p: b"P2\n%d %d\n255\n" % p.shape[::-1] + b" ".join(b"%d" % v for v in p.ravel())),
    "16-bit PGM": ("pgm", lambda p: b"P5 %d %d 65535\n" % p.shape[::-1] + (p.astype(">u2") * 257).tobytes()),
    "JPEG 2000": ("jp2", lambda p: saved(of(p), "JPEG2000")),
    "TGA": ("tga", lambda p: saved(of(p), "TGA")),
    "YCbCr TIFF": ("tif", lambda p: saved(of(p, "RGB").convert("YCbCr"), "TIFF")),
    "compressed colour TIFF": ("tif", lambda p: saved(of(p, "RGB"), "TIFF", compression="tiff_lzw")),
    "three times as large": ("png", lambda p: saved(of(np.kron(p, np.ones((3, 3), np.uint8))), "PNG")),
}
"""Kinds of files that contain the picture."""

BROKEN: Mapping[str, tuple[str, Write]] = {
    "empty": ("png", lambda _: b""),
    "text": ("png", lambda _: b"hello\n"),
    "half a PNG": ("png", lambda p: cut(png(p), 0.5)),
    "half a JPEG": ("jpg", lambda p: cut(saved(of(p, "RGB").resize((64, 64)), "JPEG"), 0.4)),
    "PNG with a wrong length": ("png", header_only),
    "PGM without pixels": ("pgm", lambda _: b"P5 24x24 255"),
    "PGM of no width": ("pgm", lambda _: b"P5 0 16 255\n"),
    "Git LFS pointer": ("png", lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"),
    "SVG": ("svg", lambda _: b"<svg xmlns='http://www.w3.org/2000/svg' width='16' height='16'/>"),
}
"""Kinds of files that do not; one of them is put among valid ones."""


def image_cases(out: Path) -> Iterator[Case]:
    """Cases of folders with images of one kind, and of folders with one broken image among valid ones."""
    for name, (suffix, write) in PICTURES.items():
        yield _case(name, out, suffix, write, PER_CLASS * CLASSES, _right)
    for name, (suffix, write) in BROKEN.items():
        yield _case(f"{name}, one of many", out, suffix, write, 1, _named)


def _case(name: str, out: Path, suffix: str, write: Write, n: int, judge: Callable[[Path], Judge]) -> Case:
    folder = out / name.replace(" ", "_").replace(",", "")
    images = folder / "images"

    def prepare() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        for label in range(CLASSES):
            (images / f"c{label}").mkdir(parents=True)
            for number in range(PER_CLASS):
                odd = label * PER_CLASS + number < n
                content = (write if odd else png)(picture(label, number))
                (images / f"c{label}" / f"{number:02d}.{suffix if odd else 'png'}").write_bytes(content)

    arguments = ("run", "--data", str(images), "--out", str(folder / "run"), *FAST)
    return Case("images", name, arguments, folder, prepare, judge(folder))


def _right(folder: Path) -> Judge:
    """Check that all images are read and show the picture."""

    def judge(said: Said) -> str:
        if said.status:
            return ""
        with np.load(folder / PROBE) as arrays:
            parts = [(arrays[f"{part}_images"], arrays[f"{part}_labels"]) for part in ("train", "search", "test")]
        if (n := sum(len(labels) for _, labels in parts)) != CLASSES * PER_CLASS:
            return f"{n} of {CLASSES * PER_CLASS} images are read without a word"
        worst = 0.0
        for images, labels in parts:
            scale = 1.0 if images.dtype == np.uint8 else 255.0
            for image, label in zip(images.mean(axis=1) * scale, labels, strict=True):
                known = (_small(picture(int(label), number), image.shape[-1]) for number in range(PER_CLASS))
                worst = max(worst, min(float(np.abs(image - one).mean()) for one in known))
        return f"a picture differs by {worst:.0f} of 255 from what the file shows" if worst > SAME else ""

    return judge


def _named(folder: Path) -> Judge:
    """Check that a broken file is refused by a message with its name."""

    def judge(said: Said) -> str:
        if said.status:
            return "" if "00." in said.reason else f"the file is not named: {said.reason[:160]}"
        if "00." in said.out + said.err or "not taken: " in said.out:
            return ""
        return "read, or left out, without a word"

    del folder
    return judge


def _small(pixels: Grey, size: int) -> NDArray[np.float64]:
    """Picture at the input size of a search space."""
    return np.asarray(ImageOps.fit(Image.fromarray(pixels), (size, size), Image.Resampling.BILINEAR), np.float64)
