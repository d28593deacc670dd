"""Three steps by hand on Inngest's SDK, with neither ledger nor flag."""

from __future__ import annotations

import logging
import os

import inngest
import inngest.flask
from flask import Flask

EVENT = "hand.three"


def make_client(url: str) -> inngest.Inngest:
    """A client of the server at `url`."""
    log = logging.getLogger(__name__)
    return inngest.Inngest(
        app_id="hand",
        is_production=False,
        event_api_base_url=url,
        api_base_url=url,
        logger=log,
    )


def make_app() -> Flask:
    """The app, at the server that INNGEST_DEV names."""
    client = make_client(os.environ["INNGEST_DEV"])
    event = inngest.TriggerEvent(event=EVENT)

    @client.create_function(fn_id="three", trigger=event, retries=4)
    def three(context: inngest.ContextSync) -> list[float]:
        return [context.step.run(f"step {n}", lambda: 0.0) for n in range(3)]

    app = Flask("hand")
    inngest.flask.serve(app, client, [three])
    return app
