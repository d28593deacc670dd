"""`python -m app.local.qstash`: the stand-in as a process, until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial

from app.local.qstash.standin import QStashStandIn
from app.local.serving import until_told
from app.switchyard.config import LOCAL_QSTASH_TOKEN


def main() -> int:
    """Serve; 0 at the end, 2 for wrong use."""
    parser = argparse.ArgumentParser(prog="python -m app.local.qstash", description=__doc__)
    parser.add_argument("--port", type=int, default=8080, help="0 takes a free one")
    parser.add_argument("--data", default=":memory:", help="a file that outlives a restart")
    parser.add_argument("--token", default=LOCAL_QSTASH_TOKEN, help="the only one accepted")
    parser.add_argument("--gap-scale", type=float, default=1.0, help="times the retry gaps")
    parser.add_argument("--seed", type=int, help="for the faults")
    parser.add_argument("--double", type=float, default=0.0, help="the part delivered twice")
    parser.add_argument("--late", type=float, default=0.0, help="seconds, at most: out of order")
    options = vars(parser.parse_args())
    key = os.environ.get("QSTASH_CURRENT_SIGNING_KEY", "")
    if not key:
        parser.error("QSTASH_CURRENT_SIGNING_KEY is not set: deliveries are signed with it")
    port, double, late = (options.pop(name) for name in ("port", "double", "late"))
    standin = QStashStandIn(signing_key=key, **options)
    try:
        standin.fault(double=double, late=late)
    except ValueError as error:
        parser.error(str(error))
    until_told(partial(standin.start, port), standin.stop)
    return 0


if __name__ == "__main__":
    sys.exit(main())
