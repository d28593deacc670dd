"""The type of days in payloads, which accepts only YYYY-MM-DD from 2000 to 2199."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from app.switchyard.clock import in_reach


def _day(value: object) -> object:
    # Pydantic by itself would read a number as a time since 1970.
    if isinstance(value, date) or (
        isinstance(value, str) and re.fullmatch(r"\d{4}-\d{2}-\d{2}", value)
    ):
        return value
    raise ValueError("must be a date as YYYY-MM-DD")


Day = Annotated[date, BeforeValidator(_day), AfterValidator(in_reach)]
