"""`python -m app.local.stripe --port 12111 [--data FILE] [--api-key sk_test_…] [--seed N] …`.

With `--webhook URL` events are delivered, signed with STRIPE_WEBHOOK_SECRET of the environment.
"""

import argparse
import os
from pathlib import Path

from app.local.serving import LoopbackServer, until_told
from app.local.stripe.server import StripeStandIn


def main() -> None:
    """Serves until SIGTERM; the one line on standard output is the URL, once it answers."""
    parser = argparse.ArgumentParser(prog="python -m app.local.stripe", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address")
    parser.add_argument("--port", type=int, default=12111, help="0 picks a free one")
    parser.add_argument("--data", type=Path, help="SQLite file that outlives a kill; else memory")
    parser.add_argument("--api-key", help="the only key accepted; else any test key")
    parser.add_argument("--seed", type=int, default=0, help="of ids and of faults")
    parser.add_argument("--webhook", metavar="URL", help="on loopback: where events are POSTed")
    parser.add_argument("--events", default="*", help="which, comma-separated; * is a wildcard")
    parser.add_argument("--settle-seconds", type=int, help="how long a bank takes; else two days")
    parser.add_argument("--rate-limit", type=int, metavar="N", help="calls a second; else any")
    args = parser.parse_args()
    secret = os.environ.get("STRIPE_WEBHOOK_SECRET", "").partition(",")[0]
    if args.webhook and not secret:
        parser.error("--webhook: STRIPE_WEBHOOK_SECRET is not set")
    app = StripeStandIn(
        api_key=args.api_key,
        data=args.data,
        seed=args.seed,
        settle_seconds=args.settle_seconds,
        rate_limit=args.rate_limit,
    )
    try:
        if args.webhook:
            app.sender.aim(args.webhook, secret, args.events.split(","))
        server = LoopbackServer(app, args.port, args.host)
        until_told(server.start, server.stop)
    except ValueError as refused:
        parser.error(str(refused))
    finally:
        app.close()


if __name__ == "__main__":
    main()
