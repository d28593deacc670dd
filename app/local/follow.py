"""The processes' logs as they grow, line by line, for whoever watches a stack."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

READ_BYTES = 256 * 1024
_DULL = {"event", "level", "timestamp", "logger"}


class Follower:
    """Reads what was added to the `*.log` files of a folder since it was last asked."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read = {path: path.stat().st_size for path in folder.glob("*.log")}
        self._rest: dict[Path, bytes] = {}

    def lines(self) -> Iterator[tuple[str, str]]:
        """New lines, each with the name of the process that wrote it."""
        for path in sorted(self._folder.glob("*.log")):
            with path.open("rb") as log:
                log.seek(self._read.get(path, 0))
                added = log.read(READ_BYTES)
            self._read[path] = self._read.get(path, 0) + len(added)
            *whole, rest = (self._rest.get(path, b"") + added).split(b"\n")
            self._rest[path] = rest
            for line in whole:
                if line.strip():
                    yield path.stem, readable(line.decode(errors="replace").rstrip())


def readable(line: str) -> str:
    """A structured log line in words; any other one as it is."""
    try:
        entry = json.loads(line)
        event = entry["event"]
    except (ValueError, TypeError, KeyError):
        return line
    level = str(entry.get("level", "info"))
    told = " ".join(f"{name}={value}" for name, value in entry.items() if name not in _DULL)
    return " ".join(filter(None, ("" if level == "info" else level.upper(), str(event), told)))
