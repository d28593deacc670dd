"""Draws an image as a WebP, upright, in sRGB and without metadata. It needs only Pillow."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from typing import IO, Any

from PIL import AvifImagePlugin, Image, ImageCms, ImageOps, PngImagePlugin

MAX_PIXELS = 50_000_000
GAP = 1.5
"""How much larger than the result an image is read, for good resizing."""
ORIENTATION = 0x0112
BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262
"""Tags of a TIFF. Where PHOTOMETRIC is 0, 0 is white."""
SAMPLES: dict[object, Callable[[Any], Any]] = {
    "L;2": lambda key: 85 * key,
    "L;4": lambda key: 17 * key,
    "RGB;16B": lambda key: tuple(value >> 8 for value in key),
}
"""Convert a PNG's transparent colour to eight bits, by its samples' format. Pillow does not."""


def draw(
    source: IO[bytes], out: IO[bytes], decoder: str, edge: int, crop: bool, quality: int
) -> dict[str, Any]:
    """Draw an image, or the first one of an animation. Returns its size and the source's, upright.

    `decoder` is the only one of Pillow's formats that may read it. Raises Pillow's errors.
    """
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    if decoder == "AVIF":
        # Pillow refuses an AVIF whose major brand is another of its brands.
        data = source.read()
        source = BytesIO(data[:8] + b"avif" + data[12:])
    # Not kept here, so that each form of the pixels is freed once the next one exists.
    image, whole = shown(Image.open(source, formats=[decoder]), edge, crop)
    sideways = False
    with suppress(Exception):  # EXIF may be anything; broken EXIF is ignored
        upright = ImageOps.exif_transpose(image)
        sideways = image.getexif().get(ORIENTATION) in (5, 6, 7, 8)
        image = upright
    image.info.clear()
    image.save(out, "WEBP", quality=quality, method=4)
    size = whole[::-1] if sideways else whole
    return {"width": image.width, "height": image.height, "source": size}


def shown(image: Image.Image, edge: int, crop: bool) -> tuple[Image.Image, tuple[int, int]]:
    """The image in RGB or RGBA, no larger than `edge`, and its original size.

    Raises ValueError where its mode does not define white.
    """
    whole, key = image.size, image.info.get("transparency")
    scale = min(1.0, edge / (min if crop else max)(whole))
    width, height = (max(1, round(side * scale)) for side in whole)
    # A JPEG can be read at a smaller size.
    drafted = image.draft(None, (round(GAP * width), round(GAP * height)))
    stored = image.tile[0].args if isinstance(image, PngImagePlugin.PngImageFile) else None
    image.load()
    if image.mode in ("I", "F"):
        raise ValueError(f"an image of mode {image.mode} does not say what is white")
    if image.mode.startswith("I;16"):
        wide, tags = image.convert("I"), getattr(image, "tag_v2", {})
        (most,) = tags.get(BITS_PER_SAMPLE, (16,))
        light = [min(255, round(255 * value / (2**most - 1))) for value in range(65_536)]
        image = wide.point(light[::-1] if tags.get(PHOTOMETRIC) == 0 else light, "L")
        if key is not None:
            alpha = wide.point([255 * (value != key) for value in range(65_536)], "L")
            del wide
            image.putalpha(alpha)
    elif key is not None and stored in SAMPLES:
        image.info["transparency"] = SAMPLES[stored](key)
    if image.mode in ("P", "PA", "1") or (key is not None and image.mode in ("L", "RGB")):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if image.mode in ("RGBA", "LA"):
        image = image.convert(image.mode[:-1] + "a")  # resizing would, but holding both copies
    # Resized before the colours are converted, so that there are fewer pixels.
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
    if profile := image.info.get("icc_profile"):
        # A profile that is broken or for other colours is ignored.
        with suppress(ImageCms.PyCMSError, OSError, ValueError, TypeError):
            given = ImageCms.ImageCmsProfile(BytesIO(profile))
            srgb = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, given, srgb, outputMode="RGB")
            image = image if converted is None else converted
    image = image.convert("RGB")
    if alpha is not None and alpha.getextrema() != (255, 255):
        image.putalpha(alpha)
    return image
