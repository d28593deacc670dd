"""Requests checked by the client library's own parameter types, made strict.

`stripe.params.*Params` says which parameters exist and of what type; turned into pydantic models
that forbid extras, they refuse what the real API refuses, in its words.
"""

import re
import sys
import types
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typing_extensions
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model
from pydantic_core import ErrorDetails, PydanticCustomError
from stripe._request_options import RequestOptions
from stripe.params import PayoutCreateParams

from app.local.stripe.errors import ApiError

MAX_AMOUNT = 99_999_999
MAX_TEXT = 5000
MAX_DESCRIPTOR = 22
# https://docs.stripe.com/api/metadata
MAX_METADATA, MAX_METADATA_KEY, MAX_METADATA_VALUE = 50, 40, 500
CURRENCIES = (
    "usd, aed, ars, aud, bgn, bhd, brl, cad, chf, clp, cny, cop, czk, dkk, egp, eur, gbp, hkd, "
    "huf, idr, ils, inr, isk, jod, jpy, kes, krw, kwd, mad, mxn, myr, ngn, nok, nzd, omr, pen, "
    "php, pkr, pln, qar, ron, rsd, sar, sek, sgd, thb, tnd, try, twd, uah, ugx, uyu, vnd, zar"
)
# https://docs.stripe.com/currencies#special-cases
WHOLE = frozenset({"isk", "ugx"})
WHOLE_PAID_OUT = frozenset({"huf", "twd"})
THOUSANDTHS = frozenset({"bhd", "jod", "kwd", "omr", "tnd"})
# By pydantic's error type: Stripe's code and message.
ANSWERS = {
    "missing": ("parameter_missing", "Missing required param: {param}."),
    "integer": ("parameter_invalid_integer", "Invalid integer: {value}"),
    "string_type": (None, "Invalid string: {value}"),
    "literal_error": (None, "Invalid {param}: must be one of {expected}"),
    "empty": (
        "parameter_invalid_empty",
        "You passed an empty string for '{param}'. We assume empty values are an attempt to unset "
        "a parameter; however '{param}' cannot be unset. You should remove '{param}' from your "
        "request or supply a non-empty value.",
    ),
}


def _not_empty(value: object) -> object:
    if value == "":
        raise PydanticCustomError("empty", "empty")
    return value


def _integer(value: object) -> int:
    if not (isinstance(_not_empty(value), str) and re.fullmatch("-?[0-9]{1,18}", str(value))):
        raise PydanticCustomError("integer", "not an integer")
    return int(str(value))


def _list(value: object) -> object:
    return list(value.values()) if isinstance(value, dict) else value


_SCALARS: dict[Any, Any] = {
    int: Annotated[int, BeforeValidator(_integer)],
    str: Annotated[str, BeforeValidator(_not_empty)],
}


def _wire_type(hint: Any) -> Any:
    """The type a parameter is checked against: text and maps arrive, and no more."""
    if hint in _SCALARS:
        return _SCALARS[hint]
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        choices = [a for a in args if not str(get_origin(a)).startswith("<class 'stripe.")]
        # `Literal['card']|str` keeps the library open to values of later API versions; the API
        # of today refuses a value it does not know.
        if any(get_origin(a) is Literal and get_args(a) != ("",) for a in choices):
            choices = [a for a in choices if a is not str]
        return Union[tuple(_wire_type(a) for a in choices)]  # noqa: UP007
    if origin is list:
        return Annotated[list[_wire_type(args[0])], BeforeValidator(_list)]  # type: ignore[misc]
    if typing_extensions.is_typeddict(hint):
        return model_of(hint)
    return hint if origin in (Literal, dict) else str


@cache
def model_of(params: Any) -> type[BaseModel]:
    """The strict model of one of the library's `*Params` types, without its request options."""
    wire = {
        k: v for k, v in params.__annotations__.items() if k not in RequestOptions.__annotations__
    }
    holder = type("_Holder", (), {"__annotations__": wire})
    hints = typing_extensions.get_type_hints(holder, vars(sys.modules[params.__module__]))
    fields: dict[str, Any] = {}
    for name, hint in hints.items():
        default = ... if name in params.__required_keys__ else None
        # The prefix keeps clear of the names that every model has itself.
        fields[f"p_{name}"] = (_wire_type(hint), Field(default, alias=name))
    return create_model(params.__name__, __config__=ConfigDict(extra="forbid"), **fields)


def checked(params: Any, raw: dict[str, Any]) -> dict[str, Any]:
    """The values of `raw`, only what was sent. Raises ApiError (400) as Stripe refuses them."""
    try:
        model = model_of(params).model_validate(raw)
    except ValidationError as failure:
        raise _refused(failure.errors(include_url=False), raw) from None
    values = model.model_dump(by_alias=True, exclude_unset=True)
    if "expand" in values:
        first = values["expand"][0]
        raise ApiError(400, f"This property cannot be expanded ({first}).", param="expand")
    if not 1 <= values.get("limit", 1) <= 100:
        bound = (
            "less than or equal to 100" if values["limit"] > 100 else "greater than or equal to 1"
        )
        message = f"This value must be {bound}."
        raise ApiError(400, message, "parameter_invalid_integer", "limit")
    _check_lengths(values)
    if "amount" in values or "currency" in values:
        _check_money(values, WHOLE | WHOLE_PAID_OUT if params is PayoutCreateParams else WHOLE)
    return values


def _check_lengths(values: dict[str, Any]) -> None:
    for name, value in values.items():
        most = MAX_DESCRIPTOR if name == "statement_descriptor" else MAX_TEXT
        if isinstance(value, str) and len(value) > most:
            message = f"Invalid string: too long; must be at most {most} characters"
            raise ApiError(400, message, param=name)
    metadata = values.get("metadata") or {}
    keys, texts = [*map(len, metadata)], [*map(len, metadata.values())]
    for what, size, most in (
        ("can have up to {} keys", len(keys), MAX_METADATA),
        ("keys can have up to {} characters", max(keys, default=0), MAX_METADATA_KEY),
        ("values can have up to {} characters", max(texts, default=0), MAX_METADATA_VALUE),
    ):
        if size > most:
            message = f"Metadata {what.format(most)}, but you passed in {size}"
            raise ApiError(400, message, param="metadata")


def _check_money(values: dict[str, Any], whole: frozenset[str]) -> None:
    """Refuses an amount outside 1..99999999 minor units and a currency Stripe does not have.

    In the currencies `whole` an amount has two decimals, which are zero, and of three decimals
    the last is.
    """
    if "amount" not in values:
        raise ApiError(400, "Missing required param: amount.", "parameter_missing", "amount")
    if values["amount"] < 1:
        message = "This value must be greater than or equal to 1."
        raise ApiError(400, message, "parameter_invalid_integer", "amount")
    if values["amount"] > MAX_AMOUNT:
        message = f"Amount must be no more than {MAX_AMOUNT}"
        raise ApiError(400, message, "amount_too_large", "amount")
    if "currency" in values:
        currency = values["currency"] = values["currency"].lower()
        if currency not in CURRENCIES.split(", "):
            message = f"Invalid currency: {currency}. Stripe currently supports these currencies: "
            raise ApiError(400, message + CURRENCIES, param="currency")
        step = 100 if currency in whole else 10 if currency in THOUSANDTHS else 1
        if values["amount"] % step:
            message = f"Invalid amount: in {currency} it must be evenly divisible by {step}."
            raise ApiError(400, message, param="amount")


def _refused(errors: list[ErrorDetails], raw: dict[str, Any]) -> ApiError:
    unknown = [_param(e, raw) for e in errors if e["type"] == "extra_forbidden"]
    if unknown:
        message = f"Received unknown parameter{'s'[: len(unknown) - 1]}: {', '.join(unknown)}"
        return ApiError(400, message, "parameter_unknown", unknown[0])
    # Of a union's errors the deepest belongs to the branch the caller meant; else the plainest.
    error = max(errors, key=lambda e: (_param(e, raw).count("["), e["type"] in ANSWERS))
    param = _param(error, raw)
    code, message = ANSWERS.get(error["type"], (None, "Invalid object: {value}"))
    expected = str(error.get("ctx", {}).get("expected", "")).replace("'", "")
    text = message.format(param=param, value=error["input"], expected=expected)
    return ApiError(400, text, code, param)


def _param(error: ErrorDetails, raw: Any) -> str:
    """The parameter's wire name; the location also names union branches, which are not sent."""
    path: list[str] = []
    for part in map(str, error["loc"]):
        if isinstance(raw, dict) and part in raw:
            raw = raw[part]
        elif error["type"] != "missing" or part != error["loc"][-1]:
            continue
        path.append(part)
    return path[0] + "".join(f"[{part}]" for part in path[1:])
