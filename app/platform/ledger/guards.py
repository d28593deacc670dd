"""Entries are written once: the database itself refuses to change or delete them.

The migrations have it frozen. One that rebuilds the table must install it again: SQLite drops a
table's triggers with the table.
"""

from __future__ import annotations

from collections.abc import Mapping

_REFUSAL = "ledger entries are never changed; post a new one"

INSTALL: Mapping[str, tuple[str, ...]] = {
    "sqlite": tuple(
        f"CREATE TRIGGER entries_no_{verb.lower()} BEFORE {verb} ON entries"
        f" BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
        for verb in ("UPDATE", "DELETE")
    ),
    "postgresql": (
        "CREATE OR REPLACE FUNCTION entries_refuse() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE EXCEPTION '{_REFUSAL}' USING ERRCODE = 'restrict_violation'; END $$",
        # By row: an insert that only may update (post() on a known entry) is let through.
        "CREATE TRIGGER entries_no_change BEFORE UPDATE OR DELETE ON entries"
        " FOR EACH ROW EXECUTE FUNCTION entries_refuse()",
        "CREATE TRIGGER entries_no_truncate BEFORE TRUNCATE ON entries"
        " FOR EACH STATEMENT EXECUTE FUNCTION entries_refuse()",
    ),
}
"""The statements that guard the table `entries`, by SQLAlchemy's dialect name."""
