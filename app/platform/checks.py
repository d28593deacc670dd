"""The platform's checks in `cutover verify`."""

from __future__ import annotations

from datetime import timedelta

from app.platform.config import settings_of
from app.platform.payouts.reconcile import reconcile
from app.switchyard.check import is_refused
from app.switchyard.errors import CheckFailed
from app.switchyard.runtime import Check, Runtime
from app.switchyard.words import plural

RECONCILED = timedelta(days=7)


def stripe(runtime: Runtime) -> str:
    """Stripe accepts the key and returns the platform's balance."""
    settings = settings_of(runtime)
    if not settings.local and settings.stripe_api_key is None:
        raise CheckFailed("STRIPE_API_KEY is not set")
    runtime.engine.gateways.stripe.platform_balance()
    return "the balance can be read"


def mail(runtime: Runtime) -> str:
    """The mail server accepts the connection and the credentials."""
    mailer = runtime.engine.gateways.mailer
    if mailer is None:
        if settings_of(runtime).local:
            return "local mode: no mail server is named"
        raise CheckFailed("SMTP_URL is not set")
    mailer.check()
    return "it accepts the connection"


def webhooks(runtime: Runtime) -> str:
    """Stripe's webhooks are refused where they are not signed."""
    if not is_refused(runtime, "/api/webhooks/stripe"):
        raise CheckFailed("/api/webhooks/stripe did not refuse an unsigned call")
    return "unsigned calls are refused"


def reconciled(runtime: Runtime) -> str:
    """The ledger and Stripe agree about the last days."""
    now = runtime.store.clock()
    gateway = runtime.engine.gateways.stripe
    seen = reconcile(runtime.db.session, gateway, now, now - RECONCILED, banks=False)
    if seen.differences:
        differences = plural(len(seen.differences), "difference")
        raise CheckFailed(f"{differences} in {RECONCILED.days} days")
    compared = f"{plural(seen.payouts, 'payout')} and {plural(seen.transfers, 'transfer')}"
    return f"{compared} of {RECONCILED.days} days"


CHECKS = (
    Check("stripe-key", stripe, "set STRIPE_API_KEY; a restricted one must read balances"),
    Check("mail", mail, "see SMTP_URL: host, port, user and password"),
    Check("stripe-webhooks", webhooks, "set STRIPE_WEBHOOK_SECRET, and deploy"),
    Check("reconciliation", reconciled, "`flask --app app payouts reconcile` names each", 23.0),
)
