"""`python -m app.local.qstash`: the stand-in as a process, until SIGTERM or SIGINT."""

import os
import sys

from app.local.qstash.server import QStashStandIn
from app.local.standin import arguments, serve_until_stopped
from app.switchyard.config import LOCAL_QSTASH_TOKEN


def main() -> int:
    """Serve; 0 at the end, 2 for wrong use."""
    parser = arguments("qstash", __doc__)
    options = parser.parse_args()
    key = os.environ.get("QSTASH_CURRENT_SIGNING_KEY", "")
    if not key:
        parser.error("QSTASH_CURRENT_SIGNING_KEY is not set: deliveries are signed with it")
    return serve_until_stopped(QStashStandIn(LOCAL_QSTASH_TOKEN, key, options.data), options.port)


if __name__ == "__main__":
    sys.exit(main())
