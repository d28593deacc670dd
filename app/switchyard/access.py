"""Who may do what at the console and by the API, where a host's own login decides it."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # a module of jobs must not load Flask
    from werkzeug.wrappers import Response


class Access(StrEnum):
    """What a visitor of the console may do."""

    ALL = "all"
    READ_ONLY = "read_only"
    """See every page, and change nothing."""


Level = Access | Literal["all", "read_only"] | None
AccessCheck = Callable[[], "Level | tuple[Level, str] | Response"]
"""Called in each request to console or API: what its visitor may do, and maybe by which name
the history is to know them. None is answered with 403; with a response, or what abort() raises, the
host answers itself."""
