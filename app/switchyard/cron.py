"""Cron lines that every clock understands alike: ours, Inngest's and QStash's."""

from __future__ import annotations

import re

from croniter import croniter
from croniter.croniter import CroniterError

_NAMES = {0: "SUN MON TUE WED THU FRI SAT", 1: "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC"}
_NUMBERS = {
    name: str(number)
    for first, names in _NAMES.items()
    for number, name in enumerate(names.split(), first)
}
_PLAIN = re.compile(r"\*|\*/\d+|\d+(-\d+)?(,\d+(-\d+)?)*")
_DAYS_OF_WEEK = 4
_DAYS = (2, _DAYS_OF_WEEK)
_FULL = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))


def portable(line: str) -> str:
    """The same times in a form that every clock accepts, without 7 for Sunday and without ranges
    that wrap around. A line that has this form already is returned unchanged.

    Raises ValueError, which says what is wrong, also for what some clock cannot do, such as the
    third Friday or the last day of a month, and for a line whose time never comes.
    """
    fields = re.sub("[A-Z]+", lambda name: _NUMBERS.get(name[0], name[0]), line.upper()).split()
    if len(fields) != len(_FULL):
        raise ValueError("is not a cron line of 5 fields")
    if odd := re.search(r"[^\d*?,/\s-]+", " ".join(fields)):
        raise ValueError(f"has {odd[0]!r}, which some side does not accept: use plain numbers")
    try:
        expanded = croniter.expand(" ".join(fields))[0]
        croniter(" ".join(fields)).get_next()
    except (CroniterError, ValueError, KeyError) as misfit:
        raise ValueError(f"cannot be read: {misfit}") from None
    if all(map(_is_plain, fields, _FULL, range(len(_FULL)))):
        return line if " ".join(fields) == line.upper() else " ".join(fields)
    return " ".join(",".join(map(str, values)) for values in expanded)


def _is_plain(field: str, full: tuple[int, int], which: int) -> bool:
    """Whether every parser accepts the field, with the same meaning."""
    if _PLAIN.fullmatch(field) is None:
        return False
    ranges = [tuple(map(int, one.split("-"))) for one in re.findall(r"\d+-\d+", field)]
    sunday = which == _DAYS_OF_WEEK and "7" in re.sub(r"/\d+", "", field)
    # Of two fields of days that both say which, either will do; not all take this for saying it.
    each = which in _DAYS and re.fullmatch(r"\*/0*1", field) is not None
    odd = sunday or each or full in ranges
    return not odd and all(low <= high for low, high in ranges)
