"""Stills, drawn by Pillow in a process of its own."""

from __future__ import annotations

import json
import sys
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from app.platform.media.confined import DecoderLost, Limits, ran
from app.platform.media.draw import Drawn, Order
from app.platform.media.variants import PLACEHOLDER, Picture

MAX_BYTES = 64 * 1024 * 1024
MAX_PIXELS = 50_000_000
LIMITS = Limits(cpu_seconds=60, wall_seconds=180, out_bytes=16 * 1024 * 1024)
_DRAW = Path(__file__).with_name("draw.py")


@dataclass(frozen=True, slots=True)
class Still:
    """A WebP, and its size in pixels."""

    file: IO[bytes]
    width: int
    height: int
    source: tuple[int, int]
    """The size of what it was drawn from, upright."""


@contextmanager
def picture(source: IO[bytes], decoder: str, variant: Picture) -> Iterator[Still]:
    """Draw the variant of the image. Raises Refused, DecoderLost."""
    order: Order = {
        "decoder": decoder,
        "edge": variant.edge,
        "crop": variant.crop,
        "quality": variant.quality,
        "max_pixels": MAX_PIXELS,
    }
    command = [sys.executable, "-I", str(_DRAW), json.dumps(order)]
    with ran(command, source, LIMITS) as done:
        # Libraries may have said something before it.
        try:
            drawn: Drawn = json.loads(done.said.strip().rpartition("\n")[2])
        except ValueError:
            raise DecoderLost(f"it did not say what it drew: {done.said[-200:]}") from None
        width, height = drawn["source"]
        yield Still(done.out, drawn["width"], drawn["height"], (width, height))


def placeholder(source: IO[bytes], decoder: str) -> tuple[str, tuple[int, int]]:
    """A tiny WebP of the image as a data: URL, and the image's own size, upright."""
    with picture(source, decoder, PLACEHOLDER) as still:
        text = b64encode(still.file.read()).decode()
        return f"data:image/webp;base64,{text}", still.source
