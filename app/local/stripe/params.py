"""The parameters this product sends, in Stripe's encoding and checked in Stripe's words.

Whatever else the real API takes, a request with it is refused.
"""

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from app.local.stripe.errors import ApiError

MAX_AMOUNT = 99_999_999
MAX_TEXT = 5000
# https://docs.stripe.com/api/metadata
MAX_METADATA = 50
CURRENCIES = (
    "usd aed ars aud bgn bhd brl cad chf clp cny cop czk dkk egp eur gbp hkd huf idr ils inr isk "
    "jod jpy kes krw kwd mad mxn myr ngn nok nzd omr pen php pkr pln qar ron rsd sar sek sgd thb "
    "tnd try twd uah ugx uyu vnd zar"
)
# https://docs.stripe.com/currencies#special-cases
WHOLE = frozenset({"isk", "ugx"})
WHOLE_PAID_OUT = frozenset({"huf", "twd"})
THOUSANDTHS = frozenset({"bhd", "jod", "kwd", "omr", "tnd"})
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
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
Amount = Annotated[Integer, Field(ge=1, le=MAX_AMOUNT)]
Currency = Annotated[str, AfterValidator(_currency)]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=40)], Annotated[str, Field(max_length=500)]],
    Field(max_length=MAX_METADATA),
]


class Form(BaseModel):
    """The parameters of one operation; by itself, of one that has none."""

    model_config = ConfigDict(extra="forbid")


class Transfer(Form):
    amount: Amount
    currency: Currency
    destination: Text
    transfer_group: Text | None = None
    metadata: Metadata = {}


class Payout(Form):
    amount: Amount
    currency: Currency
    method: Literal["standard", "instant"] = "standard"
    metadata: Metadata = {}


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
        errors = failure.errors(include_url=False)
        first = min(errors, key=lambda error: error["type"] != "extra_forbidden")
        path = [str(part) for part in first["loc"] if part != "[key]"]
        param = path[0] + "".join(f"[{part}]" for part in path[1:])
        message = f"{param}: {first['msg']}"
        if first["type"] == "extra_forbidden":
            message = f"Received unknown parameter: {param} (or one the stand-in does not know)"
        code = CODES.get(first["type"])
        if (first["type"], param) == ("less_than_equal", "amount"):
            code = "amount_too_large"
        raise ApiError(400, message, code, param) from None
    if (currency := values.get("currency")) is not None:
        whole = WHOLE | WHOLE_PAID_OUT if form is Payout else WHOLE
        step = 100 if currency in whole else 10 if currency in THOUSANDTHS else 1
        if values["amount"] % step:
            message = f"Invalid amount: in {currency} it must be evenly divisible by {step}."
            raise ApiError(400, message, param="amount")
    return values
