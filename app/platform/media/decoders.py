"""Runs Pillow and FFmpeg on a file, in a separate process that contains whatever the file does.

Every function raises Refused where the file is at fault, and otherwise DecoderLost.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from base64 import b64encode
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from app.platform.media.confine import REFUSED
from app.platform.media.kinds import PLACEHOLDER, Film, Kind, Picture, Refused
from app.switchyard.errors import SwitchyardError

MEMORY = 440 * 1024 * 1024
"""The bytes that a decoder may allocate. With its code, its peak stays under 512 MiB."""
# Without this, the arenas on a machine with hundreds of processors would use up the memory.
ENV = {"LC_ALL": "C.UTF-8", "MALLOC_ARENA_MAX": "2"}


class DecoderLost(SwitchyardError):
    """A decoder ended for a reason that may lie with the machine. It may be retried."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a decoder besides MEMORY."""

    cpu_seconds: int
    """The computing time on all processors together, independent of the machine's load."""
    out_bytes: int
    wall_seconds: int


MAX_BYTES = {Kind.IMAGE: 64 * 1024 * 1024, Kind.VIDEO: 1024 * 1024 * 1024}
STILL = Limits(60, 64 * 1024 * 1024, wall_seconds=180)
MP4 = Limits(900, 512 * 1024 * 1024, wall_seconds=1500)
X264 = {"preset": "veryfast", "profile": "high", "threads": "2"}
X264 |= {"crf": "23", "maxrate": "4000k", "bufsize": "8000k"}
Output = AbstractContextManager[tuple[IO[bytes], dict[str, Any]]]
"""A file, and the script's report on it."""


def webp(source: IO[bytes], decoder: str, picture: Picture) -> Output:
    """A picture of an image, with its width and height and the `source`'s size, upright."""
    of = {"edge": picture.edge, "crop": picture.crop, "quality": picture.quality}
    return decoded("draw.py", "draw", source, STILL, decoder=decoder, **of)


def placeholder(source: IO[bytes], decoder: str) -> tuple[str, list[int]]:
    """A tiny WebP of the image as a data: URL, and the image's own size, upright."""
    with webp(source, decoder, PLACEHOLDER) as (file, about):
        return f"data:image/webp;base64,{b64encode(file.read()).decode()}", about["source"]


def look(source: IO[bytes], decoder: str) -> list[int]:
    """A video's width and height, upright and with square pixels."""
    with decoded("transcode.py", "look", source, STILL, decoder=decoder) as (_, about):
        size: list[int] = about["size"]
        return size


def frame(source: IO[bytes], decoder: str, size: list[int], edge: int) -> Output:
    """The most typical picture in a video's first five seconds, as PNG, upright."""
    fits = fitted(size, edge, edge)
    return decoded("transcode.py", "poster", source, STILL, decoder=decoder, size=fits)


def mp4(source: IO[bytes], decoder: str, size: list[int], film: Film) -> Output:
    """The video as a `film`, upright, without the source's metadata. It plays before it is fully
    loaded. Reports width, height, seconds and `sound`: kept, none, or dropped as undecodable."""
    fits = fitted(size, film.long, film.short)
    return decoded("transcode.py", "mp4", source, MP4, decoder=decoder, size=fits, options=X264)


def fitted(size: list[int], long: int, short: int) -> list[int]:
    """The size scaled down to fit, in even numbers, which H.264's colours need."""
    scale = min(1.0, long / max(size), short / min(size))
    return [max(2, int(side * scale) // 2 * 2) for side in size]


@contextmanager
def decoded(
    script: str, function: str, source: IO[bytes], limits: Limits, **order: Any
) -> Iterator[tuple[IO[bytes], Any]]:
    """The output and the result of a function in a script beside this file.

    Its process has no other file and none of our variables. The files have no name, so that nothing
    is left of them, even after kill -9.
    """
    given = {"RLIMIT_DATA": MEMORY, "RLIMIT_CPU": limits.cpu_seconds, "RLIMIT_CORE": 0}
    given["RLIMIT_FSIZE"] = limits.out_bytes
    here = Path(__file__).parent
    program, path = str(here / "confine.py"), str(here / script)
    words = [str(os.getpid()), json.dumps(given), path, function, json.dumps(order)]
    command = [sys.executable, "-I", program, *words]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(command, stdin=source, stdout=out, stderr=err, env=ENV, cwd="/")
        try:
            code = process.wait(limits.wall_seconds)
        except subprocess.TimeoutExpired:
            raise DecoderLost(f"it was not done after {limits.wall_seconds} s") from None
        finally:
            process.kill()
            process.wait()
        err.seek(max(0, err.seek(0, 2) - 4096))
        last = err.read().decode(errors="replace").strip().rpartition("\n")[2]
        if code != 0:
            raise _failure(code, last, limits)
        out.seek(0)
        yield out, json.loads(last)


def _failure(code: int, last: str, limits: Limits) -> SwitchyardError:
    if code == REFUSED:
        return Refused(last)
    if code == -signal.SIGXCPU:
        return Refused(f"it takes more than {limits.cpu_seconds} s of computing")
    if code < 0 and code != -signal.SIGKILL:
        return Refused(f"the decoder crashed on it ({signal.Signals(-code).name})")
    return DecoderLost(f"the decoder was ended: {last[-300:] or 'killed'}")
