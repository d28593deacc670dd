"""Keeps a work horse off the connections of the worker that forked it.

A plain `rq worker` calls an app's functions in work horses alone, so it has no connections that a
fork could share. This worker performs runs itself.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from sqlalchemy import event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.pool import Pool

_PROCESS = "switchyard_process"
_kept: list[Any] = []
"""The worker's connections, kept so that a horse does not close them: that would end them on the
server, or give up SQLite's locks."""


@cache
def keep_connections_apart() -> None:
    """From now on, have each pool of this process and of its forks replace a connection that
    another process opened. These are all engines: an app may have several."""
    opener = os.getpid()

    @event.listens_for(Pool, "connect")
    def note(_connection: Any, record: Any) -> None:
        record.info[_PROCESS] = os.getpid()

    @event.listens_for(Pool, "checkout")
    def replace(connection: Any, record: Any, proxy: Any) -> None:
        if record.info.setdefault(_PROCESS, opener) != os.getpid():
            _kept.append(connection)
            record.dbapi_connection = proxy.dbapi_connection = None
            raise DisconnectionError("the worker that forked this process opened it")
