"""A whole Switchyard on this machine: starts, watches, restarts and stops its processes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from typing import Self

from app.local.environment import CannotRun, Local
from app.local.parts import Part, Process, servers, workers

READY_SECONDS = 60.0
GRACE_SECONDS = 9.0
TAIL_LINES = 15
LOOK_SECONDS = 0.05
WATCH_SECONDS = 0.25
LEAST_SECONDS = 1.0
"""The least time between two starts of a process."""


class Stack:
    """Valkey, the stand-ins, release, web, workers, relay and clock, in one folder.

    Its owner must call `tend` now and then, which restarts dead processes. `before_web` is called
    once the tables and the stand-ins exist, before web answers.
    """

    def __init__(
        self,
        local: Local,
        *,
        workers: int = 2,
        say: Callable[[str], None] = lambda line: None,
        before_web: Callable[[], None] = lambda: None,
    ) -> None:
        self.local = local
        self.processes: dict[str, Process] = {}
        """The processes by name, in the order of their start."""
        self._workers = workers
        self._say = say
        self._before_web = before_web
        self._run_file = local.folder / "run.json"

    def __enter__(self) -> Self:
        """Start everything, each group after the one before it is ready. Raises CannotRun."""
        try:
            self._up(servers(self.local))
            self._before_web()
            self._up(workers(self.local, self._workers))
            self._write_run_file()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _up(self, parts: Sequence[Part]) -> None:
        """Start parts side by side and wait for all. Raises CannotRun."""
        for part in parts:
            self._begin(part)
        end = time.monotonic() + READY_SECONDS
        for part in parts:
            process = self.processes[part.name]
            self._await(process, end)
            if part.once:
                del self.processes[part.name]
            else:
                self._say(f"{part.name} is up (pid {process.pid})")

    def _begin(self, part: Part) -> None:
        log = self.local.folder / "log" / f"{part.name}.log"
        self.processes[part.name] = Process(part, self.local.process_env, log)

    def _await(self, process: Process, end: float) -> None:
        while True:
            code = process.poll()  # first, since it may become ready and end in between
            if process.part.ready(process):
                return
            if code is not None or time.monotonic() > end:
                what = f"ended with {code} before it was ready"
                if code is None:
                    what = f"is not ready after {READY_SECONDS:g} s"
                said = "\n  ".join(process.logged().splitlines()[-TAIL_LINES:])
                raise CannotRun(f"{process.part.name} {what}; {process.log} says:\n  {said}")
            time.sleep(LOOK_SECONDS)

    def tend(self) -> None:
        """Restart dead processes without waiting for them, at most once a second."""
        for name, process in list(self.processes.items()):
            if process.poll() is not None and process.age > LEAST_SECONDS:
                self._say(f"{name} ended with {process.returncode}; starting it again")
                process.kill()  # its children may still hold its port or its files
                self._begin(process.part)

    def stop(self) -> None:
        """Send SIGTERM to all and SIGKILL after 9 s, to the workers before the services."""
        self._run_file.unlink(missing_ok=True)
        serving = {part.name for part in servers(self.local)}
        for serves in (False, True):
            group = [p for name, p in self.processes.items() if (name in serving) is serves]
            for process in group:
                process.terminate()
            end = time.monotonic() + GRACE_SECONDS
            while any(process.poll() is None for process in group) and time.monotonic() < end:
                time.sleep(LOOK_SECONDS)
            for process in group:
                process.kill()
        self.processes.clear()

    def _write_run_file(self) -> None:
        """Write down where the parts are, for commands in this folder. It may hold a password."""
        state = {"pid": os.getpid(), "env": self.local.shown_env}
        self._run_file.unlink(missing_ok=True)
        self._run_file.touch(mode=0o600)
        self._run_file.write_text(f"{json.dumps(state, indent=1)}\n")
