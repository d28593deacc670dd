"""Who may do what in the console and the API, where the host's own login decides."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # a module of jobs must not load Flask
    from werkzeug.wrappers import Response


class Access(StrEnum):
    """What a visitor may do."""

    ALL = "all"
    READ_ONLY = "read_only"
    """See every page, and change nothing."""


Level = Access | Literal["all", "read_only"] | None
AccessCheck = Callable[[], "Level | tuple[Level, str] | Response"]
"""Called in each request to the console or the API. It returns what the visitor may do, and
optionally the name to record in the history. None is answered with 403. A host answers for itself
by returning a response or calling abort()."""
