"""docs/configuration.md, made from the settings and from what .env.example says of each.

`python -m tests.support.configuration` writes it.
"""

from __future__ import annotations

import re
import types
from typing import Any, Union, get_args, get_origin

from annotated_types import Ge, Le, MaxLen
from pydantic import AfterValidator, SecretStr
from pydantic.fields import FieldInfo

from app.platform.config import ROOT
from app.platform.config import Settings as Platform
from app.platform.gateways.address import one_line
from app.switchyard.config import WEB
from app.switchyard.config import Settings as Layer

PAGE = ROOT / "docs" / "configuration.md"
_WORDS = {bool: "true or false", int: "whole number", float: "number", str: "text"}


def meanings() -> dict[str, str]:
    """What .env.example says of each variable: the comment above it."""
    text = (ROOT / ".env.example").read_text()
    above = re.findall(r"((?:^# .*\n)+)^(\w+)=", text, re.MULTILINE)
    return {name: comment.replace("# ", "").replace("\n", " ").strip() for comment, name in above}


def page() -> str:
    """The page as it should be."""
    said = meanings()
    layer, whole = Layer.model_fields, Platform.model_fields
    fields = {name.upper(): field for name, field in (whole | layer).items()}
    own = [name.upper() for name in layer]
    parts = {
        "Of Switchyard": own,
        "Of this repository's platform": [name for name in fields if name not in own],
        "Read by the processes themselves": [name for name in said if name not in fields],
    }
    lines = [PAGE.read_text().partition("\n## ")[0].rstrip() + "\n"]  # written by hand
    for title, names in parts.items():
        lines += [
            f"## {title}\n",
            "| variable | type | default | what |",
            "| --- | --- | --- | --- |",
        ]
        lines += [_row(name, fields.get(name), said[name]) for name in names]
        lines.append("")
    return "\n".join(lines)


def _row(name: str, field: FieldInfo | None, said: str) -> str:
    kind, default = ("text", "") if field is None else (_kind(field), _default(field))
    return f"| `{name}` | {kind} | {default} | {said.replace('|', chr(92) + '|')} |"


def _kind(field: FieldInfo) -> str:
    types_, marks = _flat(field.annotation), list(field.metadata)
    for one in get_args(field.annotation):
        marks += getattr(one, "__metadata__", ())
    if SecretStr in types_:
        return "secret"
    if AfterValidator(WEB) in marks:
        return "URL"
    word = next((word for kind, word in _WORDS.items() if kind in types_), "JSON")
    if AfterValidator(one_line) in marks:
        word = "one line"
    least = next((mark.ge for mark in marks if isinstance(mark, Ge)), None)
    most = next((mark.le for mark in marks if isinstance(mark, Le)), None)
    if least is not None and most is not None:
        word += f", {least} to {most}"
    longest = next((mark.max_length for mark in marks if isinstance(mark, MaxLen)), None)
    return word if longest is None else f"{word}, at most {longest} characters"


def _flat(annotation: Any) -> set[Any]:
    """The plain types that an annotation allows."""
    if get_origin(annotation) in (Union, types.UnionType):
        return set().union(*map(_flat, get_args(annotation)))
    if hasattr(annotation, "__metadata__"):
        return _flat(annotation.__origin__)
    return {annotation}


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value in (None, "", {}):
        return ""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"`{text.replace(str(ROOT) + '/', '').replace('file://', '')}`"


if __name__ == "__main__":
    PAGE.write_text(page())
