"""Real processes that start at once: forked off a server that has imported everything.

Each is a process of its own, with its own arguments, environment, streams and exit code, as
`python -m NAME ...` makes one; it is only spared the seconds of CPU that importing costs. Starts
from nothing are seen in test_procfile, test_local_stack and test_cli_run.
"""

from __future__ import annotations

import gc
import importlib
import inspect
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from typing import Any

from app.platform.config import ROOT
from tests.support.waiting import PATIENCE_SECONDS

IMPORTED = (
    *("app.switchyard.extension", "app.switchyard.crash", "app.buffered", "queues.worker"),
    *("rq.cli.cli", "flask.cli", "gunicorn.app.wsgiapp", "app.platform.wiring"),
)
"""What no process does without. No jobs: each loads its own. And no settings are read."""
_one_at_a_time = threading.Lock()


class Forked(subprocess.Popen[Any]):
    """A Popen whose command is what follows `python`: `-m MODULE ARGS` or `-c CODE ARGS`.

    It is no child of ours: the server sends us its process id, and its end when that has come.
    """

    def _execute_child(self, *given: Any) -> None:
        named = inspect.signature(subprocess.Popen._execute_child).bind(self, *given).arguments  # type: ignore[attr-defined]
        ends = [named[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        streams = [own if end == -1 else end for own, end in enumerate(ends)]
        self._said, saying = os.pipe()
        asked = {key: named[key] for key in ("args", "start_new_session")}
        asked["env"] = dict(named["env"])
        with _one_at_a_time:
            socket.send_fds(_server(), [json.dumps(asked).encode()], [*streams, saying])
        os.close(saying)
        self.pid = int(self._line())
        self._child_created = True
        names = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(named[name] for name in names))  # type: ignore[attr-defined]

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if wait_flags & os.WNOHANG and not select.select([self._said], [], [], 0)[0]:
            return 0, 0
        status = int(self._line() or signal.SIGKILL)
        os.close(self._said)
        return self.pid, status

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None and self._waitpid_lock.acquire(False):  # type: ignore[attr-defined]
            try:
                pid, status = self._try_wait(os.WNOHANG)
                if pid:
                    self._handle_exitstatus(status)  # type: ignore[attr-defined]
            finally:
                self._waitpid_lock.release()  # type: ignore[attr-defined]
        return self.returncode

    def _line(self) -> bytes:
        """One number, ended by a newline; nothing where the server was killed."""
        line = b""
        while not line.endswith(b"\n") and (byte := os.read(self._said, 1)):
            line += byte
        return line


def forked(args: list[str], environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """A command run to its end; what it said."""
    with Forked(args, env=environ, stdin=-3, stdout=-1, stderr=-1, text=True) as process:
        try:
            out, err = process.communicate(timeout=PATIENCE_SECONDS)
        finally:
            process.kill()
        return subprocess.CompletedProcess(args, process.returncode, out, err)


def in_a_fork(work: Callable[[], object]) -> str:
    """What it gives in a child of this very process, as text."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.write(write, str(work()).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as said:
        return said.read()


@cache
def _server() -> socket.socket:
    """The server of this test process; it ends when the socket closes."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "tests.support.forks", str(theirs.fileno())]
    subprocess.Popen(command, cwd=ROOT, stdin=-3, stdout=-3, pass_fds=[theirs.fileno()])
    theirs.close()
    return ours


def serve(asked: socket.socket) -> list[str]:
    """Fork for each request; returns in the new process, with what it shall run."""
    for module in IMPORTED:
        importlib.import_module(module)
    assert threading.active_count() == 1, "a fork takes no thread along"
    gc.freeze()  # what is shared stays shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests
    while True:
        message, fds, *_ = socket.recv_fds(asked, 1 << 20, 4)
        if not message:
            os._exit(0)
        if os.fork() == 0:
            asked.close()
            child = os.fork()
            if child == 0:
                return _become(json.loads(message), fds)
            for stream in fds[:3]:
                os.close(stream)
            os.write(fds[3], b"%d\n" % child)
            os.write(fds[3], b"%d\n" % os.waitpid(child, 0)[1])
            os._exit(0)
        for fd in fds:
            os.close(fd)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _become(asked: dict[str, Any], fds: list[int]) -> list[str]:
    """Take on the streams, session and environment that were asked for."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if asked["start_new_session"]:
        os.setsid()
    for own, stream in enumerate(fds[:3]):
        os.dup2(stream, own)
    for fd in fds:
        os.close(fd)
    os.environ.clear()
    os.environ.update(asked["env"])
    importlib.reload(sys.modules["app.switchyard.crash"])
    return list(asked["args"])


def main() -> None:
    option, what, *args = serve(socket.socket(fileno=int(sys.argv[1])))
    sys.argv = [option, *args]
    if option == "-c":
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
    else:
        runpy.run_module(what, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
