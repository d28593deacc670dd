"""Decoders run in a process of their own: what a file does to it, it does to nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from app.platform.media.kinds import Refused
from app.switchyard.errors import SwitchyardError

MEMORY = 440 * 1024 * 1024
"""Bytes a decoder may allocate; with its code, its peak stays under 512 MiB."""
REFUSED = 3
"""The exit code of a script that refuses its input; the reason is the last line on its stderr."""
_TAIL = 4096
_CONFINE = Path(__file__).with_name("confine.py")
# One of them where there are hundreds of processors would take the memory with its stacks alone.
_ENVIRONMENT = {"LC_ALL": "C.UTF-8", "MALLOC_ARENA_MAX": "2"}
# What is a lack of this machine's, whatever the file.
_OURS = ("No space left on device", "Too many open files", "Resource temporarily unavailable")


class DecoderLost(SwitchyardError):
    """A decoder ended for a reason that may lie with the machine; it may be tried again."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one command may take, beside MEMORY."""

    cpu_seconds: int
    """Of all processors together: what the file costs, however busy the machine is."""
    wall_seconds: int
    out_bytes: int


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command left: its standard output, and the end of its standard error."""

    out: IO[bytes]
    said: str


@contextmanager
def ran(command: Sequence[str], source: IO[bytes], limits: Limits) -> Iterator[Ran]:
    """Run the command with `source` as its standard input.

    It sees no other file and no variable of ours, and its files have no name: nothing of them is
    left, even by kill -9. Raises Refused where the file is at fault, else DecoderLost.
    """
    given = {
        "RLIMIT_DATA": MEMORY,
        "RLIMIT_CPU": limits.cpu_seconds,
        "RLIMIT_FSIZE": limits.out_bytes,
        "RLIMIT_CORE": 0,
    }
    confined = [sys.executable, "-I", "-S", str(_CONFINE), str(os.getpid()), json.dumps(given)]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        os.lseek(source.fileno(), 0, os.SEEK_SET)  # its own seek() may be one in its buffer alone
        process = subprocess.Popen(
            [*confined, *command],
            stdin=source,
            stdout=out,
            stderr=err,
            env=_ENVIRONMENT,
            cwd="/",
        )
        try:
            code = process.wait(limits.wall_seconds)
        except subprocess.TimeoutExpired:
            raise DecoderLost(f"it was not done after {limits.wall_seconds} s") from None
        finally:
            process.kill()
            process.wait()
        err.seek(max(0, err.seek(0, 2) - _TAIL))
        said = err.read().decode(errors="replace")
        if code != 0:
            raise _failure(code, said.strip(), limits)
        out.seek(0)
        yield Ran(out, said)


def _failure(code: int, said: str, limits: Limits) -> SwitchyardError:
    if code == REFUSED:
        return Refused(said.rpartition("\n")[2])
    last = " ".join(said.split())[-300:]
    if code == -signal.SIGXCPU or f"received signal {signal.SIGXCPU:d}" in said:
        return Refused(f"it takes more than {limits.cpu_seconds} s of computing")
    if code == -signal.SIGKILL or any(lack in said for lack in _OURS):
        return DecoderLost(f"the decoder was ended: {last or 'killed'}")
    if code < 0:
        return Refused(f"the decoder crashed on it ({signal.Signals(-code).name})")
    return Refused(f"it cannot be decoded: {last}")
