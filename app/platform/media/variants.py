"""What is made of an image and of a video: the one table of variants."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256

from app.platform.media.kinds import Kind

MAKER = 2
"""Raise it when the same variant would come out otherwise: then it is made again."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A still WebP, no edge longer than `edge` px; never enlarged."""

    name: str
    edge: int
    crop: bool = False
    """The square in the middle, each side `edge` px."""
    quality: int = 80


@dataclass(frozen=True, slots=True)
class Film:
    """An MP4 (H.264, AAC) that fits into `long` x `short` px either way up; never enlarged."""

    name: str
    long: int
    short: int
    crf: int = 23
    """x264's constant quality: lower is better and larger."""
    max_rate: int = 4_000
    """kbit/s."""


Variant = Picture | Film
VARIANTS: dict[Kind, tuple[Variant, ...]] = {
    Kind.IMAGE: (
        Picture("thumb", 160, crop=True, quality=75),
        Picture("small", 480),
        Picture("medium", 1080),
        Picture("large", 2048),
    ),
    Kind.VIDEO: (
        Picture("poster", 1280),
        Film("mp4", 1280, 720),
    ),
}
PLACEHOLDER = Picture("placeholder", 20, quality=30)
"""So small that the page carries it itself, until the image is there."""


def recipe(variant: Variant) -> str:
    """The variant's name and how it is made: changed, it names other files."""
    made_by = sha256(f"{MAKER} {variant}".encode()).hexdigest()
    return f"{variant.name}-{made_by[:8]}"
