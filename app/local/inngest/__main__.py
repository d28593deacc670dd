"""`python -m app.local.inngest`: the stand-in as a process, until SIGTERM or SIGINT."""

import argparse
import sys
from functools import partial

from app.local.inngest.standin import InngestStandIn
from app.local.serving import until_told


def main() -> int:
    """Serve; 0 at the end, 2 for wrong use."""
    parser = argparse.ArgumentParser(prog="python -m app.local.inngest", description=__doc__)
    parser.add_argument("--port", type=int, default=8288, help="0 takes a free one")
    parser.add_argument("--app", action="append", default=[], metavar="URL", dest="apps")
    parser.add_argument("--event-key", help="with --signing-key: production mode")
    parser.add_argument("--signing-key", help="plain hex")
    parser.add_argument("--gap-scale", type=float, default=1.0, help="times the retry gaps")
    parser.add_argument("--seed", type=int, help="for identifiers, jitter and faults")
    options = vars(parser.parse_args())
    port = options.pop("port")
    try:
        standin = InngestStandIn(**options)
    except ValueError as error:
        parser.error(str(error))
    until_told(partial(standin.start, port), standin.stop)
    return 0


if __name__ == "__main__":
    sys.exit(main())
