"""Draws one WebP of the image on standard input, upright, in sRGB and with nothing else in it.

A script of its own that needs only Pillow, run under confine.py as `python -I draw.py ORDER`; ORDER
is JSON, see Order. The WebP goes to standard output, and what it is, as JSON, to standard error.
"""

from __future__ import annotations

import json
import sys
import warnings
from contextlib import suppress
from io import BytesIO
from typing import IO, TypedDict

from PIL import AvifImagePlugin, Image, ImageCms

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


class TooMuch(Exception):
    """The image is none that can be drawn."""


def drawn(order: Order, source: IO[bytes], out: IO[bytes]) -> Drawn:
    """Draw it; of an animation its first image. Raises what Pillow does for a broken image."""
    Image.MAX_IMAGE_PIXELS = order["max_pixels"]
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    image, whole = _shrunk(order, source)
    image = _srgb(image)
    turn = UPRIGHT.get(_orientation(image))
    if turn is not None:
        image = image.transpose(turn)
        whole = (
            whole if turn in (T.FLIP_LEFT_RIGHT, T.ROTATE_180, T.FLIP_TOP_BOTTOM) else whole[::-1]
        )
    image.info.clear()
    webp = BytesIO()
    image.save(webp, "WEBP", quality=order["quality"], method=4)
    out.write(webp.getvalue())
    return {"width": image.width, "height": image.height, "source": whole}


def _shrunk(order: Order, source: IO[bytes]) -> tuple[Image.Image, tuple[int, int]]:
    """Resized before all else, so that the rest works on few pixels; and its size before."""
    image: Image.Image = Image.open(source, formats=[order["decoder"]])
    edge, crop, whole = order["edge"], order["crop"], image.size
    width, height = whole
    scale = min(1.0, edge / (min if crop else max)(width, height))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    # A JPEG can be read smaller than it is.
    drafted = image.draft(None, (round(GAP * size[0]), round(GAP * size[1])))
    image.load()
    if image.mode in ("I", "F"):
        raise TooMuch(f"an image of mode {image.mode} has no colours of its own")
    if image.mode in ("P", "PA", "1") or "transparency" in image.info:
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if image.mode == "RGBA":
        image = image.convert("RGBa")  # resizing would, and hold both
    if image.size != size:
        box = drafted[1] if drafted else None
        image = image.resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=GAP)
    if image.mode.startswith("I;16"):
        image = image.convert("I").point(lambda value: value * (1 / 257)).convert("L")
    if crop:
        side = min(edge, *size)
        left, top = (size[0] - side) // 2, (size[1] - side) // 2
        image = image.crop((left, top, left + side, top + side))
    return image.convert("RGBA") if image.mode == "RGBa" else image, whole


def _srgb(image: Image.Image) -> Image.Image:
    alpha = image.getchannel("A") if image.mode in ("RGBA", "LA") else None
    if alpha is not None:
        image = image.convert("L" if image.mode == "LA" else "RGB")
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
