"""One image file, whatever its mode, as bytes of grey or of colour; or one line that says why not."""

from __future__ import annotations

import functools
import hashlib
import io
import math
import os
import struct
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import RunError

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".avif"),
    *(".pbm", ".pgm", ".ppm", ".pnm", ".pfm", ".jp2", ".j2k", ".jpf", ".jpx", ".tga", ".pcx", ".qoi"),
)
"""Of the files that count as images, in any case of letters."""

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "AVIF", "PPM", "JPEG2000", "TGA", "PCX", "QOI")
"""Of Pillow, told by a file's content. Not its others: one of them (EPS) would start another program."""

GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N", "F")
"""Pillow's modes without colours."""

SIXTEEN = 2**16 - 1

BACKGROUNDS = (255, 0)
"""What is transparent is laid on white; on black if that leaves next to nothing to see."""

FAINT = 8.0
"""Standard deviation of grey levels below which there is next to nothing to see."""

SLENDER = 50
"""Sides' ratio from which the square in the middle is cut before it is resized: else resizing takes gigabytes."""

DAMAGED = (
    *(OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, ArithmeticError, AttributeError),
    *(RuntimeError, AssertionError, MemoryError, struct.error, zlib.error),
)
"""What Pillow raises for damaged files: 12,000 of them, damaged at random, raised most of these."""


class Look(NamedTuple):
    """What a file's header and its bytes tell, without decoding it.

    Attributes:
        digest: of the bytes.
        grey: whether it has no colours.
        width: pixels, before a camera's orientation is applied.
        height: likewise.
        alpha: whether it can have transparent pixels.
        animated: whether it has several frames; the first one counts.
        open_ended: whether numbers without a known white are in it, 32-bit integers or floats.
    """

    digest: str
    grey: bool
    width: int
    height: int
    alpha: bool
    animated: bool
    open_ended: bool

    @property
    def side(self) -> int:
        """The shorter one, pixels."""
        return min(self.width, self.height)


def shown(path: str | Path) -> str:
    """A path as it can be printed in one line, whatever bytes its name is made of."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def look(file: str) -> Look:
    """Read a file's bytes and its header.

    Raises:
        RunError: if it is no readable image, naming it.
    """
    try:
        content = Path(file).read_bytes()
        with _opened(io.BytesIO(content)) as image:
            white, (width, height) = _white(image), image.size
            alpha = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
            animated = image.format != "MPO" and bool(getattr(image, "is_animated", False))
            grey = _is_grey(image)
    except _damaged() as error:
        raise _unreadable(file, error) from None
    if min(width, height) < 1:
        raise RunError(f"{shown(file)}: is an image of {width} x {height} pixels; mend or remove it")
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    return Look(digest, grey, width, height, alpha, animated, white is None)


def value_range(file: str) -> tuple[float, float]:
    """Least and largest number in an image whose white is not known.

    Raises:
        RunError: if it cannot be read, has numbers below zero or none.
    """
    try:
        with _opened(file) as image:
            values = _values(image)
    except _damaged() as error:
        raise _unreadable(file, error) from None
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)) or low < 0:
        raise RunError(
            f"{shown(file)}: has values from {low:g} to {high:g}; which of them is black and which white is not known: "
            "save it with values from 0 to 1, from 0 to 255 or from 0 to 65535"
        )
    return low, high


def white_of(largest: float, file: str) -> float:
    """White of images whose largest value is known: the least of 1, 255, 511, 1023, ..., 2^32 - 1 that holds it.

    Args:
        largest: of all images of a set.
        file: that has it.

    Raises:
        RunError: if it is larger.
    """
    if largest <= 1:
        return 1.0
    bits = max(8, math.ceil(math.log2(largest + 1)))
    if bits > 32:
        raise RunError(f"{shown(file)}: has values up to {largest:g}; save it with values from 0 to 1 or from 0 to 255")
    return 2.0**bits - 1


def decode(file: str, channels: int, size: int, *, crop: bool = False, white: float | None = None) -> NDArray[np.uint8]:
    """Read an image: upright, shorter side resized, then the square in the middle.

    Every mode becomes grey or colour: integers are scaled by their number of bits, what is transparent is laid on
    white, or on black if next to nothing is to be seen there. Of several frames the first one counts.

    Args:
        file: its path.
        channels: 1 for grey, 3 for colour; it is converted.
        size: pixels of the square.
        crop: take a random part of the image instead, as training on ImageNet does (Szegedy 2015), from torch's
            generator.
        white: of images of floats or of 32-bit integers; ``None`` for what suits this one.

    Returns:
        ``(channels, size, size)``, 0 to 255.

    Raises:
        RunError: if it cannot be read, naming it.
    """
    from torchvision.transforms import v2

    try:
        with _opened(file) as opened:
            image = _upright(opened)
            image = _scaled(image, file, white) if _is_number(image) else image
            mode = "L" if channels == 1 else "RGB"
            if image.mode not in ("1", "L", "RGB") or "transparency" in image.info:
                image = _plain(image)
            image = image.convert(mode)
    except _damaged() as error:
        raise _unreadable(file, error) from None
    if max(image.size) > SLENDER * min(image.size):
        image = v2.functional.center_crop(image, [min(image.size)] * 2)
    if crop:
        image = v2.RandomResizedCrop(size)(image)
    else:
        image = v2.functional.center_crop(v2.functional.resize(image, [size]), [size, size])
    return np.asarray(image, np.uint8).reshape(size, size, channels).transpose(2, 0, 1)


def _unreadable(file: str, error: BaseException) -> RunError:
    reason = " ".join(str(error).split()) or type(error).__name__
    if "cannot identify image file" in reason:  # with the file's name in it, once more
        reason = "it has no known format"
    return RunError(f"{shown(file)}: is no readable image ({reason}); mend or remove it")


@functools.cache
def _damaged() -> tuple[type[BaseException], ...]:
    from PIL import Image

    return (*DAMAGED, Image.DecompressionBombError)


@functools.cache
def _quiet_pillow() -> None:
    """Its warnings, once for each image, are of metadata, or of what is done here anyway."""
    warnings.filterwarnings("ignore", module=r"PIL\..*")


def _opened(file: str | io.BytesIO) -> Image.Image:
    from PIL import Image

    _quiet_pillow()
    return Image.open(file, formats=FORMATS)


def _is_number(image: Image.Image) -> bool:
    """Whether a pixel is one number of more than eight bits."""
    return image.mode.startswith(("I", "F"))


def _is_grey(image: Image.Image) -> bool:
    """By the mode, and the palette if there is one."""
    if image.mode != "P":
        return image.mode in GREY
    palette = np.array(image.getpalette() or [], np.uint8).reshape(-1, 3)
    return bool((palette == palette[:, :1]).all())


def _upright(image: Image.Image) -> Image.Image:
    """Turned as a camera's orientation says; a damaged note of it says nothing."""
    from PIL import ExifTags, ImageOps

    image.load()
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except DAMAGED:
        return image
    return ImageOps.exif_transpose(image) if orientation in range(2, 9) else image


def _tag(image: Image.Image, number: int) -> Any:
    """First value of a TIFF tag."""
    value = getattr(image, "tag_v2", {}).get(number)
    return value[0] if isinstance(value, tuple) and value else value


BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
"""Numbers of TIFF tags."""


def _white(image: Image.Image) -> float | None:
    """The number that is white: by the bits of a pixel; ``None`` if they do not tell."""
    if not _is_number(image):
        return 255.0
    if image.mode == "F":
        return None
    if image.format == "TIFF":
        bits = _tag(image, BITS) or 16
        return float(2**bits - 1) if bits < 32 and image.mode != "I" else None
    return float(SIXTEEN)


def _values(image: Image.Image) -> NDArray[Any]:
    values = np.asarray(image)
    if image.mode == "I" and (_tag(image, BITS), _tag(image, SAMPLE_FORMAT) or 1) == (32, 1):
        return values.view(np.uint32)  # Pillow takes them for signed ones
    return values


def _scaled(image: Image.Image, file: str, white: float | None) -> Image.Image:
    """Numbers of more than eight bits as a grey image of eight."""
    from PIL import Image

    values, key = _values(image), image.info.get("transparency")
    white = _white(image) or white or white_of(value_range(file)[1], file)
    levels = np.multiply(values, 255 / white, dtype=np.float32)
    levels = np.rint(levels, out=levels).clip(0, 255).astype(np.uint8)
    if _tag(image, PHOTOMETRIC) == 0:  # white is zero; Pillow inverts images of eight bits alone
        levels = 255 - levels
    grey = Image.fromarray(levels)
    if isinstance(key, int):
        grey.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return grey


def _plain(image: Image.Image) -> Image.Image:
    """Colours without transparency."""
    from PIL import Image, ImageStat

    if image.mode not in ("LA", "La", "PA", "RGBA", "RGBa") and "transparency" not in image.info:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    least, most = layer.getchannel("A").getextrema()
    if least == 255 or most == 0:  # nothing is transparent, or all is: then it is no picture of anything
        return layer.convert("RGB")
    laid = [
        Image.alpha_composite(Image.new("RGBA", layer.size, (level, level, level, 255)), layer).convert("RGB")
        for level in BACKGROUNDS
    ]
    on_white, on_black = (max(ImageStat.Stat(one).stddev) for one in laid)
    return laid[1] if on_white < FAINT and on_white < on_black else laid[0]
