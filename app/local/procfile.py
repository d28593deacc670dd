"""Reading the Procfile, so that here everything is started as it is in production."""

from __future__ import annotations

import re
from pathlib import Path

from app.platform.config import ROOT

_LINE = re.compile(r"(?P<name>[A-Za-z0-9_-]+):\s*(?P<command>\S.*)")


def read(path: Path = ROOT / "Procfile") -> dict[str, str]:
    """Shell commands by process name, in the file's order."""
    found = (_LINE.fullmatch(line.strip()) for line in path.read_text().splitlines())
    return {match["name"]: match["command"] for match in found if match is not None}


def argv(command: str) -> list[str]:
    """What runs a Procfile's command as one process: its shell replaces itself."""
    return ["sh", "-c", f"exec {command}"]
