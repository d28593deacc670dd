"""A branch of migrations: revisions with a version table of their own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, MetaData

if TYPE_CHECKING:  # Alembic is slow to load, and only `db` and a check need it
    from alembic.config import Config


def scripts() -> Path:
    """The folder of the layer's migrations: inside the package in the wheel, beside it here."""
    package = Path(__file__).resolve().parent
    packed = package / "migrations"
    return packed if packed.is_dir() else package.parents[1] / "migrations" / "switchyard"


@dataclass(frozen=True, slots=True)
class Branch:
    """Migrations with their own version table."""

    name: str
    versions: Path
    """The folder with its revisions."""
    version_table: str
    metadata: MetaData
    """The tables of its newest revision."""

    def config(self, connection: Connection | None = None) -> Config:
        """The configuration for Alembic's commands."""
        from alembic.config import Config

        config = Config(attributes={"branch": self, "connection": connection})
        config.set_main_option("script_location", _escaped(scripts()))
        config.set_main_option("version_locations", _escaped(self.versions))
        config.set_main_option("path_separator", "newline")
        return config

    def head(self) -> str | None:
        """Its newest revision. Raises CommandError where there are several."""
        from alembic.script import ScriptDirectory

        return ScriptDirectory.from_config(self.config()).get_current_head()

    def revision(self, connection: Connection) -> str | None:
        """The database's revision, or None where it has none of the tables."""
        from alembic.runtime.migration import MigrationContext

        options = {"version_table": self.version_table}
        return MigrationContext.configure(connection, opts=options).get_current_revision()


def _escaped(path: Path) -> str:
    return str(path).replace("%", "%%")
