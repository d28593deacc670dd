"""What Pillow and FFmpeg make of a file, each in a process of its own.

Every function raises Refused where the file is at fault, else DecoderLost.
"""

from __future__ import annotations

from base64 import b64encode
from contextlib import AbstractContextManager
from typing import IO, Any

from app.platform.media.confined import Limits, decoded
from app.platform.media.kinds import Kind
from app.platform.media.variants import PLACEHOLDER, Film, Picture

MAX_BYTES = {Kind.IMAGE: 64 * 1024 * 1024, Kind.VIDEO: 1024 * 1024 * 1024}
STILL = Limits(60, 16 * 1024 * 1024, wall_seconds=180)
FRAME = Limits(60, 64 * 1024 * 1024, wall_seconds=180)
MP4 = Limits(900, 512 * 1024 * 1024, wall_seconds=1500)
Output = AbstractContextManager[tuple[IO[bytes], dict[str, Any]]]
"""A file, and what is to be known of it."""


def webp(source: IO[bytes], decoder: str, picture: Picture) -> Output:
    """The picture of an image; its width and height, and the `source`'s, upright."""
    order = {"edge": picture.edge, "crop": picture.crop, "quality": picture.quality}
    return decoded("draw.py", "draw", {"decoder": decoder, **order}, source, STILL)


def placeholder(source: IO[bytes], decoder: str) -> tuple[str, list[int]]:
    """A tiny WebP of the image as a data: URL, and the image's own size, upright."""
    with webp(source, decoder, PLACEHOLDER) as (file, about):
        return f"data:image/webp;base64,{b64encode(file.read()).decode()}", about["source"]


def look(source: IO[bytes], decoder: str) -> list[int]:
    """A video's width and height, upright and with square pixels."""
    with decoded("transcode.py", "look", {"decoder": decoder}, source, FRAME) as (_, about):
        size: list[int] = about["size"]
        return size


def frame(source: IO[bytes], decoder: str, size: list[int], edge: int) -> Output:
    """The most typical picture of a video's first five seconds, as PNG, upright."""
    order = {"decoder": decoder, "size": fitted(size, edge, edge)}
    return decoded("transcode.py", "poster", order, source, FRAME)


def mp4(source: IO[bytes], decoder: str, size: list[int], film: Film) -> Output:
    """The video as `film` has it, upright, with nothing of the source's metadata; it plays before
    it is loaded. Its width, height, seconds, and `sound`: kept, none, or dropped as undecodable."""
    rate = {"maxrate": f"{film.max_rate}k", "bufsize": f"{2 * film.max_rate}k"}
    options = {"preset": "veryfast", "profile": "high", "crf": str(film.crf), "threads": "2"}
    order = {"size": fitted(size, film.long, film.short), "options": {**options, **rate}}
    return decoded("transcode.py", "mp4", {"decoder": decoder, **order}, source, MP4)


def fitted(size: list[int], long: int, short: int) -> list[int]:
    """It made to fit, by even numbers, as H.264's colours need them; not enlarged."""
    scale = min(1.0, long / max(size), short / min(size))
    return [max(2, int(side * scale) // 2 * 2) for side in size]
