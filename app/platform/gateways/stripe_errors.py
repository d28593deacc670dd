"""What can come of a call to Stripe, told apart by what the caller may safely do next.

The rule is Stripe's on idempotent requests (https://docs.stripe.com/api/idempotent_requests): a
stored result is replayed, refusals and 500s included, while conflicts, 401 and 429 are not stored.
"""

from __future__ import annotations

from app.switchyard.errors import SwitchyardError


class StripeError(SwitchyardError, status=502, title="Stripe call failed"):
    """A call to Stripe did not succeed."""


class StripeUnknownOutcome(StripeError, title="Stripe outcome unknown"):
    """Timeout, lost connection, 5xx or 409: it may have taken effect.

    Send the same key with identical parameters again; once the key is 24 h old, look it up first.
    """


class StripeReplayedError(StripeUnknownOutcome):
    """An earlier 5xx, replayed: no call with this key will execute, now or later.

    Whether the first one took effect, only a list says.
    """


class StripeKeyReused(StripeUnknownOutcome):
    """The key was first used with other parameters: look up what came of those."""


class StripeRefused(StripeError, status=422, title="Refused by Stripe"):
    """A definite refusal: this key had no effect and never will; try again with a new key."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        """Stripe's code, such as `balance_insufficient`; `invalid_request` where it gave none."""
        self.message = message


class StripeRateLimited(StripeError, status=503, title="Stripe rate limit"):
    """429: this call was not executed. After an earlier unknown outcome, that one still stands."""

    def __init__(self, retry_after: float | None = None) -> None:
        super().__init__("Stripe refused the call: too many requests")
        self.retry_after = retry_after
        """Seconds Stripe asked to wait, where it said."""


class StripeMisconfigured(StripeError, status=500, title="Stripe is misconfigured"):
    """401 or 403: the API key is wrong or may not do this; not executed, and needs a person."""


class StripeWebhookRefused(StripeError, status=400, title="Webhook refused"):
    """A webhook that is forged, too old or malformed; nothing came of it."""
