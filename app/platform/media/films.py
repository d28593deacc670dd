"""Video, read and written by the ffmpeg of the imageio-ffmpeg wheel, in a process of its own.

There is no ffprobe in it: how long a video claims to be is read from what ffmpeg says of it, how
large its pictures are from the first one decoded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

import imageio_ffmpeg

from app.platform.media.confined import Limits, ran
from app.platform.media.kinds import Refused
from app.platform.media.variants import Film

MAX_BYTES = 1024 * 1024 * 1024
MAX_SECONDS = 600
MAX_PIXELS = 4096 * 2304
"""Of one picture of it."""
LOOK = Limits(cpu_seconds=60, wall_seconds=180, out_bytes=64 * 1024 * 1024)
MAKE = Limits(cpu_seconds=900, wall_seconds=1500, out_bytes=512 * 1024 * 1024)
SHORTFALL = 0.1
"""The part of its claimed length that may be missing before a video counts as cut off."""
CODECS = (
    *("h264", "hevc", "mpeg4", "vp8", "vp9", "libdav1d", "prores", "mjpeg"),
    *("aac", "mp3float", "mp3", "opus", "vorbis", "ac3", "eac3", "alac", "flac"),
    *("pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_f32le"),
)
"""What cameras, phones, browsers and editors write; ffmpeg could read 500 more."""
_DURATION = re.compile(r"^  Duration: (\d+):(\d\d):(\d\d\.\d+)", re.MULTILINE)
_SIZE = re.compile(r"^#dimensions 0: (\d+)x(\d+)$", re.MULTILINE)
_ASPECT = re.compile(r"^#sar 0: (\d+)/(\d+)$", re.MULTILINE)
_PROGRESS = re.compile(r"^out_time_us=(\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Look:
    """What a video is, upright and with square pixels."""

    width: int
    height: int
    seconds: float | None
    """As it claims; None: it does not say."""


@dataclass(frozen=True, slots=True)
class Made:
    """A file made of a video."""

    file: IO[bytes]
    width: int
    height: int
    seconds: float


def look(source: IO[bytes], decoder: str) -> Look:
    """Decode its first picture. Raises Refused, DecoderLost."""
    command = [
        *_reading(decoder, "info"),
        *("-map", "0:V:0", "-frames:v", "1", "-f", "framecrc", "pipe:1"),
    ]
    with ran(command, source, LOOK) as done:
        shown = done.out.read(4096).decode(errors="replace")
        said = done.said
    size, aspect, claimed = _SIZE.search(shown), _ASPECT.search(shown), _DURATION.search(said)
    if size is None:
        raise Refused("it has no picture that can be decoded")
    width, height = int(size[1]), int(size[2])
    if aspect is not None and int(aspect[1]) and int(aspect[2]):
        width = min(65_535, max(1, round(width * int(aspect[1]) / int(aspect[2]))))
    seconds = None
    if claimed is not None:
        seconds = int(claimed[1]) * 3600 + int(claimed[2]) * 60 + float(claimed[3])
    _not_too_long(seconds or 0)
    return Look(width, height, seconds)


@contextmanager
def frame(source: IO[bytes], decoder: str, seen: Look, edge: int) -> Iterator[IO[bytes]]:
    """The most typical picture of its first five seconds, as PNG, upright."""
    width, height = fitted(seen, edge, edge)
    command = [
        *_reading(decoder, "error"),
        *("-map", "0:V:0", "-frames:v", "1"),
        *("-vf", f"fps=4:round=up,scale={width}:{height},setsar=1,thumbnail=20,format=rgb24"),
        *("-c:v", "png", "-f", "image2pipe", "pipe:1"),
    ]
    with ran(command, source, LOOK) as done:
        yield done.out


@contextmanager
def mp4(source: IO[bytes], decoder: str, seen: Look, film: Film) -> Iterator[Made]:
    """The video as `film` has it, upright; it plays before it is loaded. Nothing of the source's
    metadata is in it. Raises Refused, DecoderLost."""
    width, height = fitted(seen, film.long, film.short)
    rate = film.max_rate
    command = [
        *_reading(decoder, "error"),
        *("-map", "0:V:0", "-map", "0:a:0?", "-map_metadata", "-1", "-map_chapters", "-1"),
        *("-vf", f"scale={width}:{height},setsar=1,format=yuv420p", "-fps_mode", "vfr"),
        *("-c:v", "libx264", "-preset", "veryfast", "-profile:v", "high", "-crf", str(film.crf)),
        *("-maxrate", f"{rate}k", "-bufsize", f"{2 * rate}k", "-threads", "2"),
        *("-c:a", "aac", "-b:a", "128k", "-ac", "2", "-ar", "48000"),
        *("-bitexact", "-t", str(MAX_SECONDS + 10), "-movflags", "+faststart"),
        *("-progress", "pipe:2", "-nostats"),
        # By name, since faststart reads again what it wrote.
        *("-f", "mp4", "file:/proc/self/fd/1"),
    ]
    with ran(command, source, MAKE) as done:
        times = _PROGRESS.findall(done.said)
        seconds = int(times[-1]) / 1e6 if times else 0.0
        _not_too_long(seconds)
        if seconds < (seen.seconds or 0) * (1 - SHORTFALL) - 1:
            raise Refused(f"it is cut off after {seconds:.1f} of {seen.seconds:.1f} s")
        yield Made(done.out, width, height, seconds)


def fitted(seen: Look, long: int, short: int) -> tuple[int, int]:
    """Its size made to fit, by even numbers, as H.264's colours need them; not enlarged."""
    sides = (seen.width, seen.height)
    scale = min(1.0, long / max(sides), short / min(sides))
    width, height = (max(2, int(side * scale) // 2 * 2) for side in sides)
    return width, height


def _not_too_long(seconds: float) -> None:
    if seconds > MAX_SECONDS:
        raise Refused(f"it is {seconds:,.0f} s long; {MAX_SECONDS} s are the most")


def _reading(decoder: str, loglevel: str) -> list[str]:
    """ffmpeg and its input: file descriptor 0, and no other file, address or playlist."""
    return [
        *(imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-loglevel", loglevel),
        *("-max_alloc", str(256 * 1024 * 1024), "-max_error_rate", "0.1", "-filter_threads", "1"),
        *("-protocol_whitelist", "fd", "-codec_whitelist", ",".join(CODECS)),
        *("-max_pixels", str(MAX_PIXELS), "-max_streams", "32", "-threads", "2", "-sn", "-dn"),
        *("-f", decoder, "-fd", "0", "-i", "fd:", "-y"),
    ]
