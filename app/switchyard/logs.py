"""Structured logs: one JSON object a line on standard error, with the run they belong to."""

from __future__ import annotations

import logging
import os
import sys

import structlog

from app.switchyard.errors import SettingsError

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_SHARED: list[structlog.typing.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.stdlib.ExtraAdder(),
]


def configure() -> None:
    """Route every logger of the process through one JSON handler; on a terminal, readable lines.

    LOG_LEVEL says from which level on. Raises SettingsError where it is none.
    """
    level = (os.environ.get("LOG_LEVEL") or "INFO").upper()
    if level not in LEVELS:
        raise SettingsError(f"LOG_LEVEL: must be one of {', '.join(LEVELS)}")
    pretty = sys.stderr.isatty()
    render: list[structlog.typing.Processor] = (
        # Its own tracebacks would show local variables, secrets among them.
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if pretty
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # Their lines of success come once per job or call, and carry URLs with keys in their paths.
    for name in ("rq.worker", "httpx", "httpcore", "urllib3", "werkzeug", "stripe"):
        logging.getLogger(name).setLevel(logging.WARNING)
