"""Makes the largest variants of files, and prints what came of each and the peak memory.

`python -m tests.support.peak FILE…` prints {file: [what came of it, KiB of the largest decoder]}.
"""

from __future__ import annotations

import json
import resource
import sys

from app.platform.media import films, pictures
from app.platform.media.kinds import Kind, Refused, sort_of
from app.platform.media.variants import VARIANTS, Film


def made(name: str) -> str:
    """Make the last two variants of the file, the largest."""
    with open(name, "rb") as file:
        sort = sort_of(file)
        if sort.kind is Kind.VIDEO:
            seen = films.look(file, sort.decoder)
        for variant in VARIANTS[sort.kind][-2:]:
            if sort.kind is Kind.IMAGE:
                assert not isinstance(variant, Film)
                with pictures.picture(file, sort.decoder, variant):
                    pass
            elif isinstance(variant, Film):
                with films.mp4(file, sort.decoder, seen, variant):
                    pass
            else:
                with films.frame(file, sort.decoder, seen, variant.edge):
                    pass
    return "made"


def main() -> None:
    """Each file in turn: the peak is that of all so far."""
    found: dict[str, tuple[str, int]] = {}
    for name in sys.argv[1:]:
        try:
            said = made(name)
        except Refused as reason:
            said = f"refused: {reason}"
        found[name] = (said, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
