"""One named process of a stack: asked whether it is ready, and ended with all its children."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, Popen

from app.platform.config import ROOT

TIED = Path(__file__).with_name("tied.py")
TAIL_LINES = 15


@dataclass(frozen=True, slots=True)
class Part:
    """What is to run, and how one sees that it is up."""

    name: str
    command: Sequence[str]
    ready: Callable[[Process], bool]
    """Asked again and again after a start; True once it does its work."""
    once: bool = False
    """Ends by itself: it is ready when it has ended well."""


class Process(Popen[bytes]):
    """A part at work, in a session of its own (Ctrl-C is its owner's), tied to this process."""

    def __init__(self, part: Part, env: Mapping[str, str], log: Path) -> None:
        self.part = part
        self.log = log
        self.began = time.monotonic()
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-I", "-S", str(TIED), str(os.getpid()), *part.command]
        with log.open("ab") as out:
            self._offset = out.tell()
            super().__init__(
                command,
                cwd=ROOT,
                env=env,
                stdin=DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    @property
    def age(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self.began

    def kill(self) -> None:
        """SIGKILL to it and to whatever it started and left."""
        with suppress(ProcessLookupError, PermissionError):  # macOS says so of a group of zombies
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()

    def logged(self) -> str:
        """What it wrote."""
        with self.log.open("rb") as log:
            log.seek(self._offset)
            return log.read().decode(errors="replace")

    def tail(self) -> str:
        """The last lines of that."""
        lines = self.logged().splitlines()[-TAIL_LINES:] or ["(it wrote nothing)"]
        return "\n".join(f"  {line}" for line in lines)
