"""`python -m app.local.stripe`: the stand-in as a process, until SIGTERM or SIGINT."""

import argparse
import os
import sys
from pathlib import Path

from app.local.standin import serve_until_stopped
from app.local.stripe.server import StripeStandIn
from app.local.stripe.store import SETTLE_SECONDS


def main() -> int:
    """Serve; 0 at the end, 2 for wrong use."""
    parser = argparse.ArgumentParser(prog="python -m app.local.stripe", description=__doc__)
    parser.add_argument("--port", type=int, default=12111, help="0 picks a free one")
    parser.add_argument("--data", type=Path, help="SQLite file that outlives a kill; else memory")
    parser.add_argument("--webhook", metavar="URL", help="on loopback: where events are POSTed")
    parser.add_argument("--events", default="*", help="which, comma-separated; * is a wildcard")
    parser.add_argument("--settle-seconds", type=int, default=SETTLE_SECONDS, help="of a bank")
    options = parser.parse_args()
    secret = os.environ.get("STRIPE_WEBHOOK_SECRET", "").partition(",")[0]
    if options.webhook and not secret:
        parser.error("--webhook: events are signed, and STRIPE_WEBHOOK_SECRET is not set")
    standin = StripeStandIn(data=options.data, settle_seconds=options.settle_seconds)
    try:
        if options.webhook:
            standin.sender.aim(options.webhook, secret, options.events.split(","))
    except ValueError as refused:
        parser.error(str(refused))
    return serve_until_stopped(standin, options.port)


if __name__ == "__main__":
    sys.exit(main())
