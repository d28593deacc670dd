"""`python -m tests.proof.rivals FOLDER NUMBER KEY...`: one of many processes that dispatch the same
keys, each with a payload of its own. Older code is given this file too."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from random import Random

from sqlalchemy.exc import SQLAlchemyError

from app import create_app
from app.switchyard.dispatch import dispatch
from app.switchyard.errors import KeyConflict
from tests.proof.checker import note

PATIENCE_SECONDS = 120.0


def main(folder: Path, number: str, keys: list[str]) -> None:
    """Dispatch each until it is accepted, or another's payload was."""
    create_app()
    end = time.monotonic() + PATIENCE_SECONDS
    Random(number).shuffle(keys)
    while keys and time.monotonic() < end:
        name = f"{keys[-1]}/{number}"
        note(folder, "child", key := keys[-1], [name], None)
        try:
            dispatch("child", {"name": name}, key=key)
        except SQLAlchemyError:
            time.sleep(0.5)
            continue
        except KeyConflict:
            note(folder, "child", key, [name], False)
        else:
            note(folder, "child", key, [name], True)
        keys.pop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
