"""The kinds of files, which only their first bytes decide, and the variants made of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import IO

from app.switchyard.errors import NonRetriable

HEAD = 1024
"""How many bytes are examined."""
_AVIF = {b"avif", b"avis", b"MA1A", b"MA1B"}
_HEIF = {b"heic", b"heix", b"heim", b"heis", b"mif1", b"mif2", b"miaf"}
_QUICKTIME = {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"}


class Refused(NonRetriable):
    """The file cannot be processed. A retry would not help."""


class Kind(StrEnum):
    """The kind of a file."""

    IMAGE = "image"
    VIDEO = "video"


def sort_of(file: IO[bytes]) -> tuple[Kind, str]:
    """The kind, and the only decoder (Pillow's format or FFmpeg's demuxer). Raises Refused."""
    file.seek(0)
    head = file.read(HEAD)
    if not head:
        raise Refused("the file is empty")
    for magic, decoder in (
        (rb"\xff\xd8\xff", "JPEG"),
        (rb"\x89PNG\r\n\x1a\n", "PNG"),
        (rb"GIF8[79]a", "GIF"),
        (rb"RIFF....WEBP", "WEBP"),
        (rb"II[*+]\0|MM\0[*+]", "TIFF"),
        (rb"BM.{4}\0{4}", "BMP"),
    ):
        if re.match(magic, head, re.DOTALL):
            return Kind.IMAGE, decoder
    brands = _brands(head)
    if brands & _AVIF:
        return Kind.IMAGE, "AVIF"
    if brands & _HEIF:
        raise Refused("HEIC images are not supported: JPEG, PNG, WebP and AVIF are")
    if head[4:8] in _QUICKTIME:
        return Kind.VIDEO, "mov"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return Kind.VIDEO, "matroska"
    raise Refused(
        "the file is no JPEG, PNG, WebP, GIF, AVIF, TIFF, BMP, MP4, MOV, WebM or Matroska"
    )


def _brands(head: bytes) -> set[bytes]:
    """The major and compatible brands of an ISO file. Other files have none."""
    if head[4:8] != b"ftyp":
        return set()
    listed = head[16 : int.from_bytes(head[:4], "big")]
    return {head[8:12], *(listed[at : at + 4] for at in range(0, len(listed), 4))}


@dataclass(frozen=True, slots=True)
class Picture:
    """A still WebP with no edge longer than `edge` px; never enlarged."""

    name: str
    edge: int
    crop: bool = False
    """Whether it is cut to the square in the middle, with sides of `edge` px."""
    quality: int = 80


@dataclass(frozen=True, slots=True)
class Film:
    """An MP4 (H.264, AAC) that fits into `long` x `short` px either way up; never enlarged."""

    name: str
    long: int
    short: int


Variant = Picture | Film
VARIANTS: dict[Kind, tuple[Variant, ...]] = {
    Kind.IMAGE: (
        Picture("thumb", 160, crop=True, quality=75),
        Picture("small", 480),
        Picture("medium", 1080),
        Picture("large", 2048),
    ),
    Kind.VIDEO: (Picture("poster", 1280), Film("mp4", 1280, 720)),
}
PLACEHOLDER = Picture("placeholder", 20, quality=30)
"""So small that the page can contain it, to show it until the image is loaded."""
