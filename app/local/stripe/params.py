"""The parameters this product sends, in Stripe's encoding and checked in Stripe's words.

Whatever else the real API takes, a request with it is refused.
"""

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError
from pydantic_core import PydanticCustomError

from app.local.stripe.errors import ApiError

MAX_AMOUNT = 99_999_999
CURRENCIES = (
    "usd aed ars aud bgn bhd brl cad chf clp cny cop czk dkk egp eur gbp hkd huf idr ils inr isk "
    "jod jpy kes krw kwd mad mxn myr ngn nok nzd omr pen php pkr pln qar ron rsd sar sek sgd thb "
    "tnd try twd uah ugx uyu vnd zar"
)
# https://docs.stripe.com/currencies#special-cases
STEPS = {"isk": 100, "ugx": 100} | dict.fromkeys(("bhd", "jod", "kwd", "omr", "tnd"), 10)
STEPS_TO_BANKS = STEPS | {"huf": 100, "twd": 100}
# By pydantic's error type; of any other one there is no code.
CODES = {
    "missing": "parameter_missing",
    "extra_forbidden": "parameter_unknown",
    "integer": "parameter_invalid_integer",
    "greater_than_equal": "parameter_invalid_integer",
    "less_than_equal": "parameter_invalid_integer",
    "string_too_short": "parameter_invalid_empty",
}


def _integer(value: object) -> int:
    if not (isinstance(value, str) and re.fullmatch("-?[0-9]{1,18}", value)):
        raise PydanticCustomError("integer", "Invalid integer")
    return int(value)


def _currency(value: str) -> str:
    if value.lower() not in CURRENCIES.split():
        raise PydanticCustomError("currency", "Invalid currency")
    return value.lower()


Integer = Annotated[int, BeforeValidator(_integer)]
Text = Annotated[str, Field(min_length=1, max_length=5000)]
Amount = Annotated[Integer, Field(ge=1, le=MAX_AMOUNT)]
# https://docs.stripe.com/api/metadata
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=40)], Annotated[str, Field(max_length=500)]],
    Field(max_length=50),
]


class Form(BaseModel, extra="forbid"):
    """The parameters of one operation; by itself, of one that has none."""


class Movement(Form):
    """What moves money takes."""

    amount: Amount
    currency: Annotated[str, AfterValidator(_currency)]
    metadata: Metadata = {}


class Transfer(Movement):
    destination: Text
    transfer_group: Text | None = None


class Payout(Movement):
    method: Literal["standard", "instant"] = "standard"


class Created(Form):
    gte: Integer


class Page(Form):
    """What every list takes."""

    limit: Annotated[Integer, Field(ge=1, le=100)] = 10
    starting_after: Text | None = None


class Payouts(Page):
    created: Created | None = None


class Transfers(Payouts):
    transfer_group: Text | None = None


def nested(fields: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """`a[b]=1` as `{"a": {"b": "1"}}`. Raises ApiError (400) for a name that does not nest."""
    tree: dict[str, Any] = {}
    for name, value in fields:
        match = re.fullmatch(r"([^\[\]]+)(?:\[([^\[\]]+)\])?", name)
        if match is None or not isinstance(tree.get(match[1], {}), dict):
            raise ApiError(400, f"Invalid parameter name: {name}", param=name)
        if match[2] is None:
            tree[match[1]] = value
        else:
            tree.setdefault(match[1], {})[match[2]] = value
    return tree


def checked(form: type[Form], raw: dict[str, Any]) -> dict[str, Any]:
    """The parameters, those not sent by their defaults. Raises ApiError (400)."""
    try:
        values = form.model_validate(raw).model_dump()
    except ValidationError as failure:
        raise _refused(failure) from None
    if "currency" in values:
        currency, steps = values["currency"], STEPS_TO_BANKS if form is Payout else STEPS
        if values["amount"] % (step := steps.get(currency, 1)):
            message = f"Invalid amount: in {currency} it must be evenly divisible by {step}."
            raise ApiError(400, message, param="amount")
    return values


def _refused(failure: ValidationError) -> ApiError:
    errors = failure.errors(include_url=False)
    first = min(errors, key=lambda error: error["type"] != "extra_forbidden")
    kind, (name, *path) = first["type"], [part for part in first["loc"] if part != "[key]"]
    param = f"{name}{''.join(f'[{part}]' for part in path)}"
    message = f"{param}: {first['msg']}"
    if kind == "extra_forbidden":
        message = f"Received unknown parameter: {param} (or one the stand-in does not know)"
    too_large = (kind, param) == ("less_than_equal", "amount")
    return ApiError(400, message, "amount_too_large" if too_large else CODES.get(kind), param)
