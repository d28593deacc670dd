"""What is in the ledger stays as it was earned: the models install it, the migrations have it
frozen.

The ledger's entries are never changed, so the earning they were posted from must not be either:
what is held back is reckoned from the one, and what is owed from the other.
"""

from __future__ import annotations

from collections.abc import Mapping

_REFUSAL = "an earning that is posted is never changed or deleted; record what took it back"

INSTALL: Mapping[str, tuple[str, ...]] = {
    "sqlite": tuple(
        f"CREATE TRIGGER earnings_no_{verb.lower()} BEFORE {verb} ON earnings WHEN OLD.posted"
        f" BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
        for verb in ("UPDATE", "DELETE")
    ),
    "postgresql": (
        "CREATE OR REPLACE FUNCTION earnings_refuse() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE EXCEPTION '{_REFUSAL}' USING ERRCODE = 'restrict_violation'; END $$",
        "CREATE TRIGGER earnings_no_change BEFORE UPDATE OR DELETE ON earnings"
        " FOR EACH ROW WHEN (OLD.posted) EXECUTE FUNCTION earnings_refuse()",
        "CREATE TRIGGER earnings_no_truncate BEFORE TRUNCATE ON earnings"
        " FOR EACH STATEMENT EXECUTE FUNCTION earnings_refuse()",
    ),
}
"""The statements that guard the table `earnings`, by SQLAlchemy's dialect name."""
