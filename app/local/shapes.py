"""Checks what somebody sends, with messages that name the first thing wrong with it."""

import json
from typing import Annotated, Any, NoReturn, TypeVar

from pydantic import BaseModel, Field, ValidationError

Text = Annotated[str, Field(min_length=1)]


class Shape(BaseModel, extra="forbid", strict=True, frozen=True):
    """A shape with no other fields, and no types but the right ones."""


Shaped = TypeVar("Shaped", bound=Shape)


def shaped(shape: type[Shaped], value: Any) -> Shaped:
    """The value as that shape. Raises ValueError, which names the first place that does not fit."""
    try:
        return shape.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        # The real server may or may not know the key.
        unknown = first["type"] == "extra_forbidden"
        reason = "the stand-in does not do this" if unknown else first["msg"]
        raise ValueError(f"{where}: {reason}") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def loads(raw: bytes | str) -> Any:
    """JSON as servers read it, without NaN and Infinity, which Python accepts."""
    return json.loads(raw, parse_constant=_refuse_constant)


def dumps(value: object) -> bytes:
    """Compact UTF-8 JSON; like Go it replaces a lone surrogate, which UTF-8 cannot carry."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode(errors="replace")
