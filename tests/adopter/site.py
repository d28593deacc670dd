"""Somebody else's app in an environment of its own, with the wheel, and the processes it needs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from app.local.loopback import free_port
from app.platform.config import ROOT
from tests.support.environments import INSTALL_SECONDS
from tests.support.pages import Block
from tests.support.waiting import PATIENCE_SECONDS, until

BLOCK_SECONDS = 240


def wheel(folder: Path) -> Path:
    """The wheel of this working copy, built as `make wheel` builds it."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=INSTALL_SECONDS)
    (built,) = folder.glob("switchyard-*.whl")
    return built


class Site:
    """A folder with an app, what its processes see of the environment, and those that run."""

    def __init__(self, folder: Path, python: Path, **environ: str) -> None:
        self.folder = folder
        bin_ = python.parent
        pip = bin_ / "pip"
        uv = f"{sys.executable} -m uv pip"
        pip.write_text(f'#!/bin/sh\nc=$1; shift\nexec {uv} $c --python {python} "$@"\n')
        pip.chmod(0o755)
        self.port = free_port()
        # The registry's settings may be in it.
        kept = {n: v for n, v in os.environ.items() if not n.startswith(("PY", "VIRTUAL_ENV"))}
        self.environ = {
            **kept,
            "PATH": f"{bin_}:{os.environ['PATH']}",
            "FLASK_RUN_PORT": str(self.port),
            **environ,
        }
        self.processes: list[subprocess.Popen[bytes]] = []

    def run(self, command: str, *, ok: bool = True) -> subprocess.CompletedProcess[str]:
        """A block of commands, in the app's folder."""
        done = subprocess.run(
            ["sh", "-e", "-c", command],
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=BLOCK_SECONDS,
            check=False,
        )
        assert not ok or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr[-4000:]}"
        return done

    def answer(self, command: str) -> Any:
        """What a command answers with --json."""
        return json.loads(self.run(f"{command} --json").stdout)

    def patch(self, diff: str, *options: str) -> None:
        """Apply a diff to the app."""
        subprocess.run(
            ["git", "apply", *options, "-"], cwd=self.folder, input=diff, text=True, check=True
        )

    def settings(self, block: str) -> None:
        """Take over what a block exports."""
        said = self.run(f"{block}\nenv -0").stdout
        self.environ |= dict(line.split("=", 1) for line in said.split("\0") if "=" in line)

    def start(self, block: str) -> None:
        """Start each line as a process."""
        for line in block.splitlines():
            log = (self.folder.parent / f"{line.split()[-1]}.log").open("ab")
            with log:
                self.processes.append(
                    subprocess.Popen(
                        ["sh", "-c", f"exec {line}"],
                        cwd=self.folder,
                        env=self.environ,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                )

    def stop(self) -> None:
        """End the processes, as a deploy does."""
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(PATIENCE_SECONDS)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        self.processes.clear()

    def block(self, block: Block) -> str:
        """Do what a block of the page says; what it printed."""
        if block.kind == "diff":
            self.patch(block.text)
        elif block.kind == "sh settings":
            self.settings(block.text)
        elif block.kind == "sh process":
            self.start(block.text)
        elif block.kind == "sh":
            done = self.run(block.text)
            return done.stdout + done.stderr
        else:
            assert block.kind == "python"
            source = "".join(file.read_text() for file in self.folder.glob("app/*.py"))
            assert block.text in source, "it is no line of the app's own"
        return ""

    def call(self, path: str, body: Any = None) -> Any:
        """What the web process answers."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"http://127.0.0.1:{self.port}{path}", data)
        request.add_header("Content-Type", "application/json")
        with urlopen(request, timeout=PATIENCE_SECONDS) as answer:
            text = answer.read().decode()
        return json.loads(text) if text[:1] in "[{" else text

    def until_up(self, path: str) -> None:
        """Wait for the web process."""

        def is_up() -> bool:
            try:
                self.call(path)
            except OSError:
                return False
            return True

        until(is_up, self.logs, every_seconds=0.2)

    def logs(self) -> str:
        """The end of what its processes said."""
        files = sorted(self.folder.parent.glob("*.log"))
        return "\n".join(f"== {file.name}\n{file.read_text()[-3000:]}" for file in files)


@contextmanager
def site(source: Path, folder: Path, python: Path, **environ: str) -> Iterator[Site]:
    """A copy of an app, with git to apply diffs to; its processes are ended at the end."""
    copy = folder / source.name
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["git", "init", "--quiet"], cwd=copy, check=True)
    made = Site(copy, python, **environ)
    try:
        yield made
    finally:
        made.stop()


@contextmanager
def inngest(app_port: int) -> Iterator[str]:
    """The Inngest stand-in as a process of this repository: its URL."""
    command = [sys.executable, "-m", "app.local", "inngest"]
    command += ["--app", f"http://127.0.0.1:{app_port}/api/inngest"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
