"""`python -m app.local NAME`: one local server as a process, until SIGTERM or SIGINT.

Once it answers it prints its URL, the only line on its standard output.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from app.local.standin import MEMORY, serve_until_stopped


def serve(options: argparse.Namespace) -> None:
    """Serve the server that was asked for. Raises ValueError for wrong use, and OSError."""
    # Each process imports only its own server, since some take a second to load.
    if options.name == "valkey":
        from app.local import valkey

        valkey.become(Path(options.data))
    elif options.name == "mail":
        from app.local.mail import MailSink

        serve_until_stopped(MailSink(Path(options.data)), options.port)
    elif options.name == "qstash":
        from app.local.qstash.server import QStashStandIn
        from app.switchyard.config import LOCAL_QSTASH_TOKEN

        key = os.environ.get("QSTASH_CURRENT_SIGNING_KEY", "")
        if not key:
            raise ValueError("QSTASH_CURRENT_SIGNING_KEY is not set: deliveries are signed with it")
        serve_until_stopped(QStashStandIn(LOCAL_QSTASH_TOKEN, key, options.data), options.port)
    elif options.name == "inngest":
        from app.local.inngest.standin import InngestStandIn

        serve_until_stopped(InngestStandIn(options.apps, data=options.data), options.port)
    else:
        from app.local.stripe.server import StripeStandIn

        stripe = StripeStandIn(data=options.data, settle_seconds=options.settle_seconds)
        if options.webhook:
            secret = os.environ.get("STRIPE_WEBHOOK_SECRET", "").partition(",")[0]
            stripe.sender.aim(options.webhook, secret, options.events.split(","))
        serve_until_stopped(stripe, options.port)


def main() -> int:
    """Serve. Returns 0 at the end, 1 where it cannot serve, and 2 for wrong use."""
    parser = argparse.ArgumentParser(prog="python -m app.local", description=__doc__)
    names = parser.add_subparsers(dest="name", required=True)
    stripe, inngest, qstash, mail, valkey = map(
        names.add_parser, ("stripe", "inngest", "qstash", "mail", "valkey")
    )
    for one in (stripe, inngest, qstash, mail):
        one.add_argument("--port", type=int, default=0, help="0, the default, picks a free one")
    for one in (stripe, inngest, qstash):
        one.add_argument("--data", default=MEMORY, help="a file for data that survives a restart")
    for one in (mail, valkey):
        one.add_argument("--data", required=True, help="the folder for its data")
    stripe.add_argument("--webhook", metavar="URL", help="where to POST events, on loopback")
    stripe.add_argument("--events", default="*", help="their types, with commas; * is a wildcard")
    stripe.add_argument("--settle-seconds", type=int, default=2 * 24 * 3600, help="a bank's time")
    inngest.add_argument("--app", action="append", default=[], metavar="URL", dest="apps")
    options = parser.parse_args()
    try:
        serve(options)
    except ValueError as wrong:
        parser.error(str(wrong))
    except OSError as failure:
        sys.stderr.write(f"{options.name}: {failure}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
