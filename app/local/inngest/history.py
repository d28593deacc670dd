"""What outlives the server, in one SQLite file: its functions and runs."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from app.local.inngest.events import Event
from app.local.inngest.functions import Function
from app.local.inngest.runs import Run
from app.local.standin import MEMORY, Sqlite

_TABLES = """
CREATE TABLE IF NOT EXISTS apps (name TEXT PRIMARY KEY, doc TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS runs (id TEXT PRIMARY KEY, doc TEXT NOT NULL);
"""


class History(Sqlite):
    """The caller holds the engine's lock."""

    def __init__(self, path: str = MEMORY) -> None:
        super().__init__(path, _TABLES)
        self._kept = path != MEMORY

    def close(self) -> None:
        """Release the file; nothing is kept from now on."""
        self._kept = False
        super().close()

    def save_app(self, name: str, registration: Any) -> None:
        """Keep what an app registered."""
        self._save("apps", name, registration)

    def save(self, run: Run) -> None:
        """Keep a run as it stands."""
        if self._kept:
            doc = {name: value for name, value in vars(run).items() if name != "function"}
            doc |= {"function": run.function.id, "event": asdict(run.event)}
            self._save("runs", run.id, doc)

    def _save(self, table: str, key: str, doc: Any) -> None:
        if self._kept:
            self._rows(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", key, json.dumps(doc))

    def apps(self) -> Iterator[tuple[str, Any]]:
        """Each app's name and what it registered."""
        for name, doc in self._rows("SELECT name, doc FROM apps"):
            yield name, json.loads(doc)

    def runs(self, functions: Mapping[str, Function]) -> Iterator[Run]:
        """The runs kept, oldest first, but for those of functions that are no more."""
        for (text,) in self._rows("SELECT doc FROM runs ORDER BY id"):
            doc = json.loads(text)
            if doc["function"] in functions:
                doc |= {"function": functions[doc["function"]], "event": Event(**doc["event"])}
                yield Run(**doc)
