"""The legacy side: plain RQ on Redis. It knows how to deliver a run, not what is in it.

At old call sites `from queues import Job, Queue, job` replaces rq's: docs/old-call-sites.md.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from queues.dispatched import Job as Job
    from queues.dropin import Queue as Queue
    from queues.dropin import job as job

_AT = {"Job": ".dispatched", "Queue": ".dropin", "job": ".dropin"}


def __getattr__(name: str) -> Any:
    # Imported only on request: the wiring imports this package's backend, and the drop-in imports
    # the wiring.
    if name not in _AT:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_AT[name], __name__), name)
