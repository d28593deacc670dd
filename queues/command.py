"""`rq worker`, as the Procfile starts it."""

from __future__ import annotations

from collections.abc import Sequence

from rq.cli.cli import main

from queues.backend import WORKER_COMMAND


def work(options: Sequence[str]) -> None:
    """Run RQ's own command with these options until it is asked to stop."""
    _, *common = WORKER_COMMAND.split()
    main.main([*common, *options], prog_name="rq", standalone_mode=False)
