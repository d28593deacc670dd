"""Which operation a request names, and the library's type its parameters must fit."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from stripe import params as p

from app.local.stripe import accounts, money, payouts
from app.local.stripe.errors import ApiError
from app.local.stripe.store import Call


class Route(NamedTuple):
    """One operation and the library's type its parameters must fit."""

    method: str
    path: str
    params: Any
    run: Callable[[Call], dict[str, Any]]


def listing(kind: str, *, shared: bool = False) -> Callable[[Call], dict[str, Any]]:
    """The list operation of a kind; a shared one shows every caller the platform's."""

    def run(call: Call) -> dict[str, Any]:
        owner = "" if shared else call.owner
        return call.store.page(kind, owner, f"/v1/{kind}s", call.params)

    return run


ID = "/([^/]+)"
ROUTES = [
    Route("GET", "/v1/accounts", p.AccountListParams, listing("account", shared=True)),
    Route("GET", f"/v1/accounts{ID}", p.AccountRetrieveParams, accounts.retrieve),
    Route("GET", "/v1/balance", p.BalanceRetrieveParams, money.balance),
    Route("POST", "/v1/transfers", p.TransferCreateParams, money.transfer),
    Route("GET", "/v1/transfers", p.TransferListParams, listing("transfer")),
    Route("GET", f"/v1/transfers{ID}", p.TransferRetrieveParams, money.retrieve),
    Route("POST", f"/v1/transfers{ID}/reversals", p.TransferReversalCreateParams, money.reverse),
    Route("POST", "/v1/payouts", p.PayoutCreateParams, payouts.create),
    Route("GET", "/v1/payouts", p.PayoutListParams, listing("payout")),
    Route("GET", f"/v1/payouts{ID}", p.PayoutRetrieveParams, money.retrieve),
    Route("POST", f"/v1/payouts{ID}/cancel", p.PayoutCancelParams, payouts.cancel),
    Route("GET", "/v1/events", p.EventListParams, listing("event")),
]


def find(method: str, path: str) -> tuple[Route, tuple[str, ...]]:
    """The route and the ids in its path. Raises ApiError (404) for a URL Stripe does not have."""
    for route in ROUTES:
        if route.method == method and (match := re.fullmatch(route.path, path)):
            return route, match.groups()
    message = f"Unrecognized request URL ({method}: {path}). Please see https://stripe.com/docs"
    raise ApiError(404, message)
