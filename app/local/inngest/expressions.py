"""The small part of the expression language that the stand-in understands.

Equalities joined by `&&`, such as `event.data.id == async.data.id && async.data.ok == true`.
Everything else is refused, since a condition half understood would match the wrong events.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_OPERAND = (
    r"(?:event|async)(?:\.[A-Za-z_]\w*)+"
    r"|'[^'\\]*'|\"[^\"\\]*\"|-?\d+(?:\.\d+)?|true|false"
)
_TERM = re.compile(rf"\s*({_OPERAND})\s*==\s*({_OPERAND})\s*(&&|$)")
_MISSING = object()


class UnsupportedExpressionError(ValueError):
    """The stand-in only understands equalities joined by `&&`."""


@dataclass(frozen=True)
class Expression:
    """`terms` holds both sides of each equality."""

    terms: tuple[tuple[str, str], ...]

    def matches(self, event: Mapping[str, Any], later: Mapping[str, Any] | None = None) -> bool:
        """Whether all equalities hold; `later` is what the expression calls `async`."""
        roots = {"event": event, "async": later}
        return all(_equal(_value(a, roots), _value(b, roots)) for a, b in self.terms)


def parse(text: str, *, asynchronous: bool = True) -> Expression:
    """Compile `text`; without `asynchronous` only `event` may be named."""
    terms: list[tuple[str, str]] = []
    position = 0
    joined = True
    while joined:
        term = _TERM.match(text, position)
        if term is None or (not asynchronous and re.search(r"\basync\.", term[0])):
            raise UnsupportedExpressionError(f"the stand-in does not understand {text!r}")
        terms.append((term[1], term[2]))
        position, joined = term.end(), term[3] == "&&"
    return Expression(tuple(terms))


def lookup(path: str, event: Mapping[str, Any]) -> Any:
    """The value at a path such as `event.data.key`, or None."""
    value = _value(path, {"event": event})
    return None if value is _MISSING else value


def _value(operand: str, roots: Mapping[str, Mapping[str, Any] | None]) -> Any:
    root, *path = operand.split(".")
    if root not in roots or not path:
        return operand[1:-1] if operand[0] in "'\"" else json.loads(operand)
    value: Any = roots[root]
    for part in path:
        value = value.get(part, _MISSING) if isinstance(value, Mapping) else _MISSING
    return value


def _equal(left: Any, right: Any) -> bool:
    # Missing never matches, or one event without the field would wake every waiting run; and
    # Python alone holds that True equals 1.
    if _MISSING in (left, right) or isinstance(left, bool) is not isinstance(right, bool):
        return False
    return bool(left == right)
