"""What a file is, by its first bytes alone: no name and no content type is believed."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import IO

from app.switchyard.job_errors import NonRetriable

HEAD = 1024
"""Bytes that browsers and PDF readers look through for what a file might be."""
_EOCD = b"PK\x05\x06"
_EOCD_SIZE, _MAX_COMMENT = 22, 0xFFFF
_ACTIVE = re.compile(rb"%PDF-|%!PS|<html|<!doctype|<script|<svg|<\?php", re.IGNORECASE)
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_QUICKTIME = {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"}


class Refused(NonRetriable):
    """The file is not one that is processed; trying again cannot help."""


class Kind(StrEnum):
    """What is made of a file."""

    IMAGE = "image"
    VIDEO = "video"


@dataclass(frozen=True, slots=True)
class Sort:
    """A kind, and the one decoder (Pillow's format, ffmpeg's demuxer) that may read it."""

    kind: Kind
    decoder: str


def sort_of(file: IO[bytes]) -> Sort:
    """What the file is. Raises Refused, also where it is something else at the same time."""
    file.seek(0)
    head = file.read(HEAD)
    found = _found(head)
    if found is None:
        raise Refused(
            "the file is empty"
            if not head
            else "the file is no JPEG, PNG, WebP, GIF, AVIF, TIFF, BMP, MP4, MOV, WebM or Matroska"
        )
    if _ACTIVE.search(head) or _ends_as_zip(file):
        raise Refused("the file is two at once: such are made to be taken for what they are not")
    return found


def _found(head: bytes) -> Sort | None:
    for magic, decoder in (
        (rb"\xff\xd8\xff", "JPEG"),
        (rb"\x89PNG\r\n\x1a\n", "PNG"),
        (rb"GIF8[79]a", "GIF"),
        (rb"RIFF....WEBP", "WEBP"),
        (rb"II\*\0|MM\0\*", "TIFF"),
        (rb"BM.{4}\0{4}", "BMP"),
        (rb"....ftypavi[fs]", "AVIF"),
    ):
        if re.match(magic, head, re.DOTALL):
            return Sort(Kind.IMAGE, decoder)
    if head[4:8] == b"ftyp" and head[8:12] in _HEIC:
        raise Refused("HEIC images are not supported: JPEG, PNG, WebP and AVIF are")
    if head[4:8] in _QUICKTIME:
        return Sort(Kind.VIDEO, "mov")
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return Sort(Kind.VIDEO, "matroska")
    return None


def _ends_as_zip(file: IO[bytes]) -> bool:
    """Whether a ZIP (a JAR, an Office file) ends where the file ends; they are read from there."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _EOCD_SIZE - _MAX_COMMENT))
    tail = file.read()
    at = tail.rfind(_EOCD)
    if at < 0 or len(tail) - at < _EOCD_SIZE:
        return False
    (comment,) = struct.unpack_from("<H", tail, at + _EOCD_SIZE - 2)
    return bool(at + _EOCD_SIZE + comment == len(tail))
