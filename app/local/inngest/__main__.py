"""`python -m app.local.inngest`: the stand-in as a process, until SIGTERM or SIGINT."""

import sys

from app.local.inngest.standin import InngestStandIn
from app.local.standin import arguments, serve_until_stopped


def main() -> int:
    """Serve as a dev server; 0 at the end, 2 for wrong use."""
    parser = arguments("inngest", __doc__)
    parser.add_argument("--app", action="append", default=[], metavar="URL", dest="apps")
    parser.add_argument("--keep-queue", action="store_true", help="there, too, as with Redis")
    parser.add_argument("--gap-scale", type=float, default=1.0, help="below 1: shorter gaps")
    options = parser.parse_args()
    try:
        standin = InngestStandIn(
            options.apps,
            data=options.data,
            keeps_queue=options.keep_queue,
            gap_scale=options.gap_scale,
        )
    except ValueError as error:
        parser.error(str(error))
    return serve_until_stopped(standin, options.port)


if __name__ == "__main__":
    sys.exit(main())
