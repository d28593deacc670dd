"""`python -m tests.support.upstash --redis URL --token T --port P`: Upstash Redis over REST."""

from __future__ import annotations

import argparse

from app.local.serving import LoopbackServer, until_told
from tests.support.upstash.server import UpstashStandIn


def main() -> None:
    """Serves until SIGTERM; the one line on standard output is the URL, once it answers."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.upstash", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address")
    parser.add_argument("--port", type=int, default=8079, help="0 picks a free one")
    parser.add_argument("--redis", required=True, metavar="URL", help="the server behind it")
    parser.add_argument("--token", required=True, help="the only one accepted")
    args = parser.parse_args()
    try:
        app = UpstashStandIn(args.redis, args.token)
        server = LoopbackServer(app, args.port, args.host)
    except ValueError as refused:
        parser.error(str(refused))
    until_told(server.start, server.stop)
    app.close()


if __name__ == "__main__":
    main()
