"""Structured logs on standard error: one JSON object a line, with the run it belongs to."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType

from app.switchyard.errors import SettingsError

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_USUAL = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "_event"}
"""The attributes of every record. All others were passed as `extra`."""
_bound: ContextVar[Mapping[str, object]] = ContextVar(
    "switchyard_logs", default=MappingProxyType({})
)


@contextmanager
def bound(**values: object) -> Iterator[None]:
    """Add these values to each log line that is written inside the block."""
    token = _bound.set({**_bound.get(), **values})
    try:
        yield
    finally:
        _bound.reset(token)


def bind(**values: object) -> None:
    """Add these values to each log line from now on, until they are unbound."""
    _bound.set({**_bound.get(), **values})


def unbind(name: str) -> None:
    """Undo what `bind` did for one name."""
    _bound.set({key: value for key, value in _bound.get().items() if key != name})


def values() -> Mapping[str, object]:
    """The values that are added to log lines now."""
    return _bound.get()


class _Details(logging.Filter):
    """Ends a message with what was passed as `extra`, which most apps' formatters do not show."""

    def filter(self, record: logging.LogRecord) -> bool:
        """See logging. No record is dropped."""
        details = {key: value for key, value in vars(record).items() if key not in _USUAL}
        if details:
            event = record.getMessage()
            vars(record)["_event"] = event
            record.msg = event.replace("%", "%%") + "".join(f" {name}=%r" for name in details)
            record.args = tuple(details.values())
        return True


_DETAILS = _Details()


def logger_of(module: str) -> logging.Logger:
    """The module's logger, whose messages end with their details."""
    logger = logging.getLogger(module)
    logger.addFilter(_DETAILS)
    return logger


class Bound(logging.Filter):
    """Gives each record the bound values as attributes, for a handler's formatters: `request_id`,
    and during a run `run_id`, `job`, `backend`, `epoch`, `step` and `trace_id`."""

    def filter(self, record: logging.LogRecord) -> bool:
        """See logging. No record is dropped."""
        for name, value in _bound.get().items():
            vars(record).setdefault(name, value)
        return True


class Lines(logging.Formatter):
    """A record as one JSON object on one line."""

    def fields(self, record: logging.LogRecord) -> dict[str, object]:
        """The fields of the line."""
        at = (
            datetime.fromtimestamp(record.created, UTC)
            .isoformat(timespec="microseconds")
            .replace("+00:00", "Z")
        )
        given = {key: value for key, value in vars(record).items() if key not in _USUAL}
        event = vars(record).get("_event") or record.getMessage()
        said = {"event": event, "level": record.levelname.lower()}
        return {**said, "logger": record.name, "timestamp": at, **given}

    def format(self, record: logging.LogRecord) -> str:
        """See logging."""
        line = self.fields(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=repr)


class Readable(Lines):
    """A record as a line for people, followed by its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging."""
        line = self.fields(record)
        start = [str(line.pop(name)) for name in ("timestamp", "level", "logger", "event")]
        text = " ".join([*start, *(f"{name}={value!r}" for name, value in line.items())])
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def configure() -> None:
    """Route every logger of the process through one handler: JSON, or readable on a terminal.

    LOG_LEVEL sets the least level. Raises SettingsError where it is not a level.
    """
    level = (os.environ.get("LOG_LEVEL") or "INFO").upper()
    if level not in LEVELS:
        raise SettingsError(f"LOG_LEVEL: must be one of {', '.join(LEVELS)}")
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(Bound())
    handler.setFormatter(Readable() if sys.stderr.isatty() else Lines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # They log each successful job or call, with URLs whose paths may contain keys.
    for name in ("rq.worker", "httpx", "httpcore", "urllib3", "werkzeug", "stripe"):
        logging.getLogger(name).setLevel(logging.WARNING)
