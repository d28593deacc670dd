"""`python -m app.local.qstash`: the stand-in as a process, until SIGTERM or SIGINT."""

import argparse
import os
import sys

from app.local.qstash.standin import QStashStandIn
from app.local.standin import serve_until_stopped
from app.switchyard.config import LOCAL_QSTASH_TOKEN


def main() -> int:
    """Serve; 0 at the end, 2 for wrong use."""
    parser = argparse.ArgumentParser(prog="python -m app.local.qstash", description=__doc__)
    parser.add_argument("--port", type=int, default=8080, help="0 takes a free one")
    parser.add_argument("--data", default=":memory:", help="a file that outlives a restart")
    options = parser.parse_args()
    key = os.environ.get("QSTASH_CURRENT_SIGNING_KEY", "")
    if not key:
        parser.error("QSTASH_CURRENT_SIGNING_KEY is not set: deliveries are signed with it")
    standin = QStashStandIn(LOCAL_QSTASH_TOKEN, key, options.data)
    return serve_until_stopped(standin, options.port)


if __name__ == "__main__":
    sys.exit(main())
