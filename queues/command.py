"""`rq worker`, as the Procfile starts it."""

from __future__ import annotations

from collections.abc import Sequence

from rq.cli.cli import main

_SETTINGS = f"--config {__package__}.settings --worker-class {__package__}.worker.Worker"


def work(options: Sequence[str]) -> None:
    """Run RQ's own command with these options until it is asked to stop."""
    main.main(["worker", *_SETTINGS.split(), *options], prog_name="rq", standalone_mode=False)
