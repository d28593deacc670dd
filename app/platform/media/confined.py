"""Decoders run in a process of their own: what a file does to it, it does to nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from app.platform.media.confine import REFUSED
from app.platform.media.kinds import Refused
from app.switchyard.errors import SwitchyardError

MEMORY = 440 * 1024 * 1024
"""Bytes a decoder may allocate; with its code, its peak stays under 512 MiB."""
_CONFINE = Path(__file__).with_name("confine.py")
# One arena for each of hundreds of processors would take the memory with its stacks alone.
ENV = {"LC_ALL": "C.UTF-8", "MALLOC_ARENA_MAX": "2"}


class DecoderLost(SwitchyardError):
    """A decoder ended for a reason that may lie with the machine; it may be tried again."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one decoder may take, beside MEMORY."""

    cpu_seconds: int
    """Of all processors together: what the file costs, however busy the machine is."""
    out_bytes: int
    wall_seconds: int


@contextmanager
def decoded(
    script: str, function: str, order: Mapping[str, object], source: IO[bytes], limits: Limits
) -> Iterator[tuple[IO[bytes], Any]]:
    """What a function of the script beside this file wrote of the source, and what it returned.

    It has no other file and no variable of ours, and its files have no name: nothing of them is
    left, even by kill -9. Raises Refused where the file is at fault, else DecoderLost.
    """
    given = {"RLIMIT_DATA": MEMORY, "RLIMIT_CPU": limits.cpu_seconds, "RLIMIT_CORE": 0}
    given["RLIMIT_FSIZE"] = limits.out_bytes
    path, parent = str(_CONFINE.parent / script), str(os.getpid())
    command = [sys.executable, "-I", str(_CONFINE), parent, json.dumps(given), path, function]
    command.append(json.dumps(order))
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
