"""What the database itself refuses to change in a payout: the models install it, and their
migrations have it frozen.

Who is paid, how much and where to is fixed when a payout is requested; a payout is never deleted.
"""

from __future__ import annotations

from collections.abc import Mapping

_PINNED = ("creator_id", "currency", "amount", "destination")
_REFUSAL = "a payout is never deleted; its creator, currency, amount and destination never change"

INSTALL: Mapping[str, tuple[str, ...]] = {
    "sqlite": (
        f"CREATE TRIGGER payouts_pinned BEFORE UPDATE OF {', '.join(_PINNED)} ON payouts"
        f" WHEN {' OR '.join(f'OLD.{c} IS NOT NEW.{c}' for c in _PINNED)}"
        f" BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END",
        "CREATE TRIGGER payouts_kept BEFORE DELETE ON payouts"
        f" BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END",
    ),
    "postgresql": (
        "CREATE OR REPLACE FUNCTION payouts_refuse() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE EXCEPTION '{_REFUSAL}' USING ERRCODE = 'restrict_violation'; END $$",
        f"CREATE TRIGGER payouts_pinned BEFORE UPDATE OF {', '.join(_PINNED)} ON payouts"
        f" FOR EACH ROW WHEN ({' OR '.join(f'OLD.{c} IS DISTINCT FROM NEW.{c}' for c in _PINNED)})"
        " EXECUTE FUNCTION payouts_refuse()",
        "CREATE TRIGGER payouts_kept BEFORE DELETE OR TRUNCATE ON payouts"
        " FOR EACH STATEMENT EXECUTE FUNCTION payouts_refuse()",
    ),
}
"""The statements that guard the table `payouts`, by SQLAlchemy's dialect name."""
