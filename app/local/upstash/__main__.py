"""`python -m app.local.upstash --redis URL --token T --port P`: Upstash Redis over REST."""

from __future__ import annotations

import argparse
import sys

from app.local.serving import serve
from app.local.upstash.server import UpstashStandIn


def ready(url: str) -> None:
    sys.stdout.write(f"{url}\n")
    sys.stdout.flush()


def main() -> None:
    """Serves until SIGTERM; the one line on standard output is the URL, once it answers."""
    parser = argparse.ArgumentParser(prog="python -m app.local.upstash", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address")
    parser.add_argument("--port", type=int, default=8079, help="0 picks a free one")
    parser.add_argument("--redis", required=True, metavar="URL", help="the server behind it")
    parser.add_argument("--token", required=True, help="the only one accepted")
    args = parser.parse_args()
    try:
        app = UpstashStandIn(args.redis, args.token)
        serve(app, args.port, host=args.host, on_ready=ready)
    except ValueError as refused:
        parser.error(str(refused))
    app.close()


if __name__ == "__main__":
    main()
