"""`python -m app.local.stripe`: the stand-in as a process, until SIGTERM or SIGINT."""

import os
import sys

from app.local.standin import arguments, serve_until_stopped
from app.local.stripe.server import StripeStandIn
from app.local.stripe.store import SETTLE_SECONDS


def main() -> int:
    """Serve; 0 at the end, 2 for wrong use."""
    parser = arguments("stripe", __doc__)
    parser.add_argument("--webhook", metavar="URL", help="on loopback: where events are POSTed")
    parser.add_argument("--events", default="*", help="which, comma-separated; * is a wildcard")
    parser.add_argument("--settle-seconds", type=int, default=SETTLE_SECONDS, help="of a bank")
    options = parser.parse_args()
    standin = StripeStandIn(data=options.data, settle_seconds=options.settle_seconds)
    try:
        if options.webhook:
            secret = os.environ.get("STRIPE_WEBHOOK_SECRET", "").partition(",")[0]
            standin.sender.aim(options.webhook, secret, options.events.split(","))
    except ValueError as refused:
        parser.error(str(refused))
    return serve_until_stopped(standin, options.port)


if __name__ == "__main__":
    sys.exit(main())
