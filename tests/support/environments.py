"""Environments of other package versions than this one's, made from the package registry.

They are kept under var/, by what is in them; where the registry cannot be reached and there is
none yet, a test that needs one is skipped.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from app.platform.config import ROOT

FOLDER = ROOT / "var" / "environments"
INSTALL_SECONDS = 240


def uv(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of uv's; what it said."""
    return subprocess.run(
        [sys.executable, "-m", "uv", *arguments],
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
        check=False,
    )


def install(python: Path, *what: str) -> None:
    """Install, or skip the test where the registry cannot be reached."""
    done = uv("pip", "install", "--quiet", "--python", str(python), *what)
    if done.returncode == 0:
        return
    if "No solution found" in done.stderr and "network" not in done.stderr:
        raise AssertionError(done.stderr)
    pytest.skip(f"the package registry cannot be reached: {done.stderr.strip()[-300:]}")


def install_once(python: Path, *what: str) -> None:
    """Install, where the last time it was something else."""
    note, wanted = python.parents[1] / "installed", "\n".join(what)
    if not note.exists() or note.read_text() != wanted:
        install(python, *what)
        note.write_text(wanted)


def empty(name: str) -> Path:
    """The Python of an environment with nothing in it, made where there is none of that name."""
    folder = FOLDER / name
    python = folder / "bin" / "python"
    if not python.exists():
        made = uv("venv", "--quiet", "--python", sys.executable, str(folder))
        assert made.returncode == 0, made.stderr
    return python


def ours_but(name: str, *packages: str) -> Path:
    """The Python of an environment with all that is in this one, and these packages before it."""
    python = empty(name)
    within = Path("lib") / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    ours = sysconfig.get_path("purelib")
    (python.parents[1] / within / "ours.pth").write_text(f"{ours}\n")
    install_once(python, "--no-deps", "--upgrade", *packages)
    return python
