"""A statement as PDF, set by Typst from the document alone: the same document, the same bytes."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import manimgx_fonts
import manimgx_fonts_cjk
import typst

from app.platform.statements.document import Document, major
from app.switchyard.db import canonical_json

_TEMPLATE = Path(__file__).with_name("statement.typ")


def made(document: Document) -> bytes:
    """A4, with as many pages as it takes."""
    currencies = [_shown(one, one["currency"]) for one in document["currencies"]]
    shown = {**_shown(document, ""), "currencies": currencies}
    pdf = typst.compile(
        _TEMPLATE,
        font_paths=_fonts(),
        sys_inputs={"document": canonical_json(shown)},
        # Its tags would make it five times as large.
        pdf_tags=False,
    )
    assert isinstance(pdf, bytes)
    return pdf


@cache
def _fonts() -> typst.Fonts:
    """Noto's for every script, from packages: those of the machine would make other bytes."""
    folders: list[Any] = [Path(f.__file__ or "").parent for f in (manimgx_fonts, manimgx_fonts_cjk)]
    return typst.Fonts(include_system_fonts=False, include_embedded_fonts=False, font_paths=folders)


def _shown(value: Any, currency: str) -> Any:
    """Amounts in units of the currency."""
    if isinstance(value, dict):
        return {
            name: str(part) if name == "sales" else _shown(part, currency)
            for name, part in value.items()
            if name != "currencies"
        }
    if isinstance(value, list):
        return [_shown(part, currency) for part in value]
    if isinstance(value, int):
        return major(value, currency).replace("-", "\N{MINUS SIGN}")
    return value
