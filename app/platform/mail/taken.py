"""What local mode's mail server took: a file for each mail, named by when it came."""

from __future__ import annotations

import re
from contextlib import suppress
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path

_NAME = re.compile(r"[0-9]{19}-[0-9]{6}")


def names(folder: Path) -> list[str]:
    """The mails in the folder, newest first."""
    with suppress(FileNotFoundError):
        found = (path.stem for path in folder.glob("*.eml"))
        return sorted((name for name in found if _NAME.fullmatch(name)), reverse=True)
    return []


def read(folder: Path, name: str) -> EmailMessage | None:
    """One of them, or None where there is none of this name."""
    if not _NAME.fullmatch(name):
        return None
    try:
        mail = message_from_bytes((folder / f"{name}.eml").read_bytes(), policy=default)
    except FileNotFoundError:
        return None
    assert isinstance(mail, EmailMessage)
    return mail
