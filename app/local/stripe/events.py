"""What happened, as Stripe tells it: events, listed by the API and delivered by webhook."""

from fnmatch import fnmatchcase
from typing import Any

import stripe

from app.local.stripe.store import Store


def emit(
    store: Store,
    kind: str,
    body: dict[str, Any],
    *,
    account: str,
    at: int | None = None,
    before: dict[str, Any] | None = None,
) -> None:
    """Records an event of type `kind` about the object `body` as it is now.

    It is in the caller's transaction, so it tells only of what came to be. `account` is the
    connected account it happened on, or "" the platform; `before` what attributes were.
    """
    data = {"object": body} | ({"previous_attributes": before} if before else {})
    event = {
        "id": store.new_id("evt"),
        "object": "event",
        "api_version": stripe.api_version,
        "created": store.now() if at is None else at,
        "data": data,
        "livemode": False,
        "pending_webhooks": int(any(fnmatchcase(kind, one) for one in store.listened_to)),
        "request": {"id": None, "idempotency_key": None},
        "type": kind,
    }
    store.put(account, event | ({"account": account} if account else {}))
