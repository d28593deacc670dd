"""Stripe's request encoding: form fields whose names nest with brackets."""

import re
from collections.abc import Iterable
from typing import Any

from app.local.stripe.errors import ApiError

_NAME = re.compile(r"^([^\[\]]+)((?:\[[^\[\]]*\])*)$")


def nested(fields: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """`a[b][c]=1` as `{"a": {"b": {"c": "1"}}}`; arrays stay maps keyed by position.

    The models turn those maps into lists where a list belongs. Raises ApiError (400) for a name
    that does not nest.
    """
    tree: dict[str, Any] = {}
    for name, value in fields:
        match = _NAME.match(name)
        if match is None:
            raise ApiError(400, f"Invalid parameter name: {name}", param=name)
        path = [match[1], *re.findall(r"\[([^\[\]]*)\]", match[2])]
        node = tree
        for part in path[:-1]:
            child = node.setdefault(part or str(len(node)), {})
            if not isinstance(child, dict):
                raise ApiError(400, f"Invalid parameter name: {name}", param=name)
            node = child
        node[path[-1] or str(len(node))] = value
    return tree
