"""Decoding of image files of any mode to 8-bit greyscale or colour."""

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
"""Suffixes of image files; case does not matter."""

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "AVIF", "PPM", "JPEG2000", "TGA", "PCX", "QOI")
"""Pillow formats that are accepted; a format is recognised by content. EPS is not: decoding it starts Ghostscript."""

GREY = ("1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N", "F")
"""Greyscale modes of Pillow."""

SIXTEEN = 2**16 - 1

BACKGROUNDS = (255, 0)
"""Grey levels on which transparent images are composited: white, or black if hardly any contrast is left on white."""

FAINT = 8.0
"""Standard deviation of grey levels below which an image has hardly any contrast."""

SLENDER = 50
"""Aspect ratio above which an image is cropped before it is resized, as resizing would take gigabytes."""

DAMAGED = (
    *(OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, ArithmeticError, AttributeError),
    *(RuntimeError, AssertionError, MemoryError, struct.error, zlib.error),
)
"""Exceptions that Pillow raises for damaged files, most of them seen in a test with 12,000 randomly damaged files."""


class Look(NamedTuple):
    """Properties of an image file that are known without decoding it.

    Attributes:
        digest: Hash of the file's bytes.
        grey: Whether the image is greyscale.
        width: Width in pixels, before the EXIF orientation is applied.
        height: Height in pixels, before the EXIF orientation is applied.
        alpha: Whether the image may have transparent pixels.
        animated: Whether the file has several frames; only the first one is used.
        open_ended: Whether pixels are 32-bit integers or floats, for which the white level is not known.
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
        """Length of the shorter side in pixels."""
        return min(self.width, self.height)


def shown(path: str | Path) -> str:
    """Path as printable text on one line; unprintable and undecodable bytes are escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def look(file: str) -> Look:
    """Read the bytes and the header of an image file.

    Raises:
        RunError: If the file is not a readable image; the message names it.
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
        raise RunError(f"{shown(file)}: is an image of {width} x {height} pixels; repair or remove it")
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    return Look(digest, grey, width, height, alpha, animated, white is None)


def value_range(file: str) -> tuple[float, float]:
    """Smallest and largest pixel value of an image whose white level is not known.

    Raises:
        RunError: If the image cannot be read or has negative or non-finite values.
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
    """White level for a largest pixel value: the smallest of 1, 255, 511, 1023, ..., 2^32 - 1 that is not below it.

    Args:
        largest: Largest pixel value of all images of a data set.
        file: Image that has this value, for the message.

    Raises:
        RunError: If the value is above 2^32 - 1.
    """
    if largest <= 1:
        return 1.0
    bits = max(8, math.ceil(math.log2(largest + 1)))
    if bits > 32:
        raise RunError(f"{shown(file)}: has values up to {largest:g}; save it with values from 0 to 1 or from 0 to 255")
    return 2.0**bits - 1


def decode(file: str, channels: int, size: int, *, crop: bool = False, white: float | None = None) -> NDArray[np.uint8]:
    """Decode an image: rotate it upright, resize its shorter side, and crop the central square.

    Every mode is converted to greyscale or colour. Integers are scaled by their bit depth; transparent images are
    composited on white, or on black if hardly any contrast is left on white. Only the first frame is used.

    Args:
        file: Path of the image.
        channels: 1 for greyscale, 3 for colour.
        size: Side length of the square in pixels.
        crop: Whether to take a random resized crop instead, as in training on ImageNet (Szegedy 2015); drawn from
            torch's global generator.
        white: White level of float and 32-bit integer images; ``None`` to derive it from this image.

    Returns:
        Pixels from 0 to 255, shape ``(channels, size, size)``.

    Raises:
        RunError: If the image cannot be read; the message names it.
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
    if "cannot identify image file" in reason:  # Pillow's message repeats the file's name
        reason = "it has no known format"
    return RunError(f"{shown(file)}: is not a readable image ({reason}); repair or remove it")


@functools.cache
def _damaged() -> tuple[type[BaseException], ...]:
    from PIL import Image

    return (*DAMAGED, Image.DecompressionBombError)


@functools.cache
def _quiet_pillow() -> None:
    """Silence Pillow's per-image warnings: they concern metadata, or conversions that are made here anyway."""
    warnings.filterwarnings("ignore", module=r"PIL\..*")


def _opened(file: str | io.BytesIO) -> Image.Image:
    from PIL import Image

    _quiet_pillow()
    return Image.open(file, formats=FORMATS)


def _is_number(image: Image.Image) -> bool:
    """Whether the image has one channel of more than eight bits."""
    return image.mode.startswith(("I", "F"))


def _is_grey(image: Image.Image) -> bool:
    """Whether an image is greyscale, judged by its mode and its palette."""
    if image.mode != "P":
        return image.mode in GREY
    palette = np.array(image.getpalette() or [], np.uint8).reshape(-1, 3)
    return bool((palette == palette[:, :1]).all())


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; damaged EXIF data are ignored."""
    from PIL import ExifTags, ImageOps

    image.load()
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except DAMAGED:
        return image
    return ImageOps.exif_transpose(image) if orientation in range(2, 9) else image


def _tag(image: Image.Image, number: int) -> Any:
    """First value of a TIFF tag, by number."""
    value = getattr(image, "tag_v2", {}).get(number)
    return value[0] if isinstance(value, tuple) and value else value


BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
"""Numbers of TIFF tags."""


def _white(image: Image.Image) -> float | None:
    """White level by bit depth; ``None`` if the bit depth does not determine it."""
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
        return values.view(np.uint32)  # Pillow reads unsigned 32-bit integers as signed ones
    return values


def _scaled(image: Image.Image, file: str, white: float | None) -> Image.Image:
    """Convert an image of more than eight bits to 8-bit greyscale."""
    from PIL import Image

    values, key = _values(image), image.info.get("transparency")
    white = _white(image) or white or white_of(value_range(file)[1], file)
    levels = np.multiply(values, 255 / white, dtype=np.float32)
    levels = np.rint(levels, out=levels).clip(0, 255).astype(np.uint8)
    if _tag(image, PHOTOMETRIC) == 0:  # WhiteIsZero; Pillow inverts only 8-bit images
        levels = 255 - levels
    grey = Image.fromarray(levels)
    if isinstance(key, int):
        grey.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return grey


def _plain(image: Image.Image) -> Image.Image:
    """Convert to RGB, compositing transparent pixels on a background."""
    from PIL import Image, ImageStat

    if image.mode not in ("LA", "La", "PA", "RGBA", "RGBa") and "transparency" not in image.info:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    least, most = layer.getchannel("A").getextrema()
    if least == 255 or most == 0:  # fully opaque, or fully transparent, so that the alpha channel tells nothing
        return layer.convert("RGB")
    laid = [
        Image.alpha_composite(Image.new("RGBA", layer.size, (level, level, level, 255)), layer).convert("RGB")
        for level in BACKGROUNDS
    ]
    on_white, on_black = (max(ImageStat.Stat(one).stddev) for one in laid)
    return laid[1] if on_white < FAINT and on_white < on_black else laid[0]
