"""Draws one WebP of the image on standard input, upright, in sRGB and with nothing else in it.

A script of its own that needs only Pillow, run under confine.py as `python -I draw.py ORDER`; ORDER
is JSON, see Order. The WebP goes to standard output, and what it is, as JSON, to standard error.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from typing import IO, Any, TypedDict

from PIL import AvifImagePlugin, Image, ImageCms, PngImagePlugin

REFUSED = 3
"""The exit code where the image is at fault."""
GAP = 1.5
"""How much larger than wanted an image is read, for the resizing to be good."""
ORIENTATION = 0x0112
T = Image.Transpose
UPRIGHT = {
    2: T.FLIP_LEFT_RIGHT,
    3: T.ROTATE_180,
    4: T.FLIP_TOP_BOTTOM,
    5: T.TRANSPOSE,
    6: T.ROTATE_270,
    7: T.TRANSVERSE,
    8: T.ROTATE_90,
}
"""What sets an image upright, by its EXIF orientation."""


SAMPLES: dict[object, Callable[[Any], Any]] = {
    "L;2": lambda key: 85 * key,
    "L;4": lambda key: 17 * key,
    "RGB;16B": lambda key: tuple(value >> 8 for value in key),
}
"""A PNG's transparent colour in eight bits, by how its samples are stored: Pillow leaves it."""


class Order(TypedDict):
    """What to draw."""

    decoder: str
    """The one of Pillow's formats that may read it."""
    edge: int
    crop: bool
    quality: int
    max_pixels: int


class Drawn(TypedDict):
    """What was drawn, and the size of the whole image, upright."""

    width: int
    height: int
    source: tuple[int, int]


def drawn(order: Order, source: IO[bytes], out: IO[bytes]) -> Drawn:
    """Draw it; of an animation its first image. Raises what Pillow does for a broken image."""
    Image.MAX_IMAGE_PIXELS = order["max_pixels"]
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    if order["decoder"] == "AVIF":
        # Pillow refuses an AVIF whose major brand is another of its brands.
        data = source.read()
        source = BytesIO(data[:8] + b"avif" + data[12:])
    # Not kept here, so that each form of its pixels is freed once there is the next.
    image, whole = shown(
        Image.open(source, formats=[order["decoder"]]), order["edge"], order["crop"]
    )
    orientation = _orientation(image)
    if orientation in UPRIGHT:
        image = image.transpose(UPRIGHT[orientation])
    image.info.clear()
    webp = BytesIO()
    image.save(webp, "WEBP", quality=order["quality"], method=4)
    out.write(webp.getvalue())
    size = whole if orientation < 5 else whole[::-1]
    return {"width": image.width, "height": image.height, "source": size}


def shown(image: Image.Image, edge: int, crop: bool) -> tuple[Image.Image, tuple[int, int]]:
    """What is seen of it, in RGB or RGBA, no larger than `edge`; and its size before.

    Raises ValueError where its mode does not say what is white.
    """
    whole, key = image.size, image.info.get("transparency")
    scale = min(1.0, edge / (min if crop else max)(whole))
    width, height = (max(1, round(side * scale)) for side in whole)
    # A JPEG can be read smaller than it is.
    drafted = image.draft(None, (round(GAP * width), round(GAP * height)))
    stored = image.tile[0].args if isinstance(image, PngImagePlugin.PngImageFile) else None
    image.load()
    if image.mode in ("I", "F"):
        raise ValueError(f"an image of mode {image.mode} does not say what is white")
    if image.mode.startswith("I;16"):
        wide = image.convert("I")
        image = wide.point([round(value / 257) for value in range(65_536)], "L")
        if key is not None:
            alpha = wide.point([255 * (value != key) for value in range(65_536)], "L")
            del wide
            image.putalpha(alpha)
    elif key is not None and stored in SAMPLES:
        image.info["transparency"] = SAMPLES[stored](key)
    if image.mode in ("P", "PA", "1") or (key is not None and image.mode in ("L", "RGB")):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if image.mode in ("RGBA", "LA"):
        image = image.convert(image.mode[:-1] + "a")  # resizing would, and hold both
    # Resized before its colours are seen to, so that they are few.
    if image.size != (width, height):
        box = drafted[1] if drafted else None
        image = image.resize((width, height), Image.Resampling.LANCZOS, box=box, reducing_gap=GAP)
    if crop:
        side = min(edge, width, height)
        left, top = (width - side) // 2, (height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    return _srgb(image), whole


def _srgb(image: Image.Image) -> Image.Image:
    alpha = None
    if image.mode in ("RGBa", "La"):
        image = image.convert(image.mode[:-1] + "A")
        alpha = image.getchannel("A")
        image = image.convert(image.mode[:-1])
    profile = image.info.get("icc_profile")
    if profile:
        # One that is broken or for other colours is as good as none.
        with suppress(ImageCms.PyCMSError, OSError, ValueError, TypeError):
            given = ImageCms.ImageCmsProfile(BytesIO(profile))
            srgb = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, given, srgb, outputMode="RGB")
            image = image if converted is None else converted
    image = image.convert("RGB")
    if alpha is not None and alpha.getextrema() != (255, 255):
        image.putalpha(alpha)
    return image


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - EXIF may be anything; one that is broken turns nothing
        return 1


def main() -> None:
    """Draw, or say why not."""
    try:
        said = drawn(json.loads(sys.argv[1]), sys.stdin.buffer, sys.stdout.buffer)
        sys.stdout.flush()
    except MemoryError:
        reason = "it needs more memory than a decoder may have"
    except Exception as failure:
        # A broken image makes decoders raise anything; only an error of the system is not its.
        if isinstance(failure, OSError) and failure.errno is not None:
            raise
        reason = f"it cannot be decoded: {type(failure).__name__}: {failure}"
    else:
        print(json.dumps(said), file=sys.stderr)  # noqa: T201
        return
    print(" ".join(reason.split())[:300], file=sys.stderr)  # noqa: T201
    sys.exit(REFUSED)


if __name__ == "__main__":
    main()
