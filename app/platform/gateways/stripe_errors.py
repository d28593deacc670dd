"""What can come of a call to Stripe, told apart by what the caller may safely do next.

The rule is Stripe's on idempotent requests (https://docs.stripe.com/api/idempotent_requests): a
stored result is replayed, refusals and 500s included, while conflicts, 401 and 429 are not stored.
"""

from app.switchyard.errors import SwitchyardError


class StripeError(SwitchyardError):
    """A call to Stripe did not succeed."""

    status = 502
    title = "Stripe call failed"


class StripeUnknownOutcome(StripeError):
    """Timeout, lost connection, 5xx or 409: it may have taken effect.

    Send the same key with identical parameters again; once the key is 24 h old, look the transfer
    up by its group first.
    """

    title = "Stripe outcome unknown"


class StripeServerError(StripeUnknownOutcome):
    """A 5xx: it may have taken effect, and the same key gets this same answer until it expires."""

    title = "Stripe failed"


class StripeReplayedError(StripeServerError):
    """An earlier 5xx, replayed: this call executed nothing, and no other with this key will.

    Whether the first one took effect, only a list says.
    """

    title = "Stripe failed before"


class StripeKeyReused(StripeUnknownOutcome):
    """The key was first used with other parameters, and what came of those is not known here.

    Sending again gives the same answer: look up by transfer group.
    """

    title = "Stripe key used with other parameters"


class StripeRefused(StripeError):
    """A definite refusal: this key had no effect and never will; try again with a new key."""

    status = 422
    title = "Refused by Stripe"

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        """Stripe's code, such as `balance_insufficient`; `invalid_request` where it gave none."""
        self.message = message

    def __reduce__(self) -> tuple[type["StripeRefused"], tuple[str, str]]:
        return type(self), (self.code, self.message)


class StripeRateLimited(StripeError):
    """429: this call was not executed. After an earlier unknown outcome, that one still stands."""

    status = 503
    title = "Stripe rate limit"

    def __init__(self, retry_after: float | None = None) -> None:
        super().__init__("Stripe refused the call: too many requests")
        self.retry_after = retry_after
        """Seconds Stripe asked to wait, where it said."""

    def __reduce__(self) -> tuple[type["StripeRateLimited"], tuple[float | None]]:
        return type(self), (self.retry_after,)


class StripeMisconfigured(StripeError):
    """401 or 403: the API key is wrong or may not do this; not executed, and needs a person."""

    status = 500
    title = "Stripe is misconfigured"


class StripeWebhookRefused(StripeError):
    """A webhook that is forged, too old or malformed; nothing came of it."""

    status = 400
    title = "Webhook refused"
