"""Stores files by path, in a folder or an S3-compatible bucket.

The URL is `file:///folder`, or `s3://bucket/prefix?endpoint=https://…&region=…` with the usual AWS
variables for credentials. A path is names of letters, digits and `_ . = @ + -`, joined by slashes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from typing import IO, Any
from urllib.parse import parse_qsl, urlsplit

from app.switchyard import effects
from app.switchyard.errors import BadInput, SettingsError, SwitchyardError

MAX_PATH = 200
PIECE = 8 * 1024 * 1024
"""How many bytes of a large file are transferred at once."""
TIMEOUT = timedelta(seconds=15)
"""Of each wait for a bucket."""
LONGEST = timedelta(minutes=10)
_NAME = re.compile(r"[A-Za-z0-9_.=@+-]{1,140}")
_NO_FILE = re.compile(r"\(os error (20|21)\)")
"""The path, or a part of it, is a folder where it should be a file, or the reverse."""


class StorageUnavailable(SwitchyardError, status=503, title="Storage unavailable"):
    """The storage failed. The call may be retried."""


class StorageMissing(SwitchyardError, status=404, title="No such file"):
    """There is no such file."""


class StorageTooLarge(BadInput, status=413, title="File too large"):
    """The file is larger than its reader accepts."""


class Storage:
    """Stores files by path. A put is atomic: a reader sees the old file or the new one.

    Every call raises BadInput for an invalid path, and StorageUnavailable.
    """

    def __init__(self, url: str, options: Mapping[str, str]) -> None:
        self._url, self._options = url, options
        self._pid: int | None = None

    def put(self, path: str, data: bytes | IO[bytes], content_type: str) -> None:
        """Store `data` as `path`, replacing any file there. A file is read from its beginning."""
        effects.allow("storing a file")
        if not isinstance(data, bytes):
            data.seek(0)
        more: Any = {"chunk_size": PIECE, "max_concurrency": 2}
        if not self._url.startswith("file:"):  # a folder keeps no types
            more["attributes"] = {"Content-Type": content_type}
        with self._opened(path, reading=False) as store:
            store.put(path, data, **more)

    def get(self, path: str) -> bytes:
        """The content of the file `path`. Raises StorageMissing."""
        with self._opened(path) as store:
            return bytes(store.get(path).bytes())

    def fetch(self, path: str, into: IO[bytes], at_most: int) -> None:
        """Copy the file `path` into another, in pieces. Raises StorageMissing, and StorageTooLarge
        where it has more than `at_most` bytes."""
        with self._opened(path) as store:
            kept = store.get(path)
            if (size := kept.meta["size"]) > at_most:
                raise StorageTooLarge(f"{path} has {size:,} bytes; the limit is {at_most:,}")
            for piece in kept.stream(PIECE):
                into.write(piece)

    @contextmanager
    def _opened(self, path: str, *, reading: bool = True) -> Iterator[Any]:
        """The store for one call. The library's errors are translated."""
        from obstore.exceptions import BaseError  # most processes need no storage library

        checked_path(path)
        self._pid = self._pid or os.getpid()
        if self._pid != os.getpid():
            # A forked child lacks the library's threads, so that a call would wait forever.
            raise StorageUnavailable("this process was forked from one that had used the storage")
        try:
            yield self._store
        except (OSError, ValueError, BaseError) as failure:
            if reading and (
                isinstance(failure, FileNotFoundError) or _NO_FILE.search(str(failure))
            ):
                raise StorageMissing(f"there is no file {path}") from None
            said = str(failure).partition("\n")[0][:200]
            raise StorageUnavailable(f"{path}: {type(failure).__name__}: {said}") from None

    @cached_property
    def _store(self) -> Any:
        from obstore.store import from_url

        if self._url.startswith("file:"):
            return from_url(self._url, mkdir=True)
        bounds: Any = {"read_timeout": TIMEOUT, "connect_timeout": TIMEOUT}
        bounds |= {"timeout": LONGEST, "allow_http": True}
        retries: Any = {"max_retries": 2, "retry_timeout": 2 * TIMEOUT}
        options: Any = self._options
        return from_url(self._url, client_options=bounds, retry_config=retries, **options)


def open_storage(url: str) -> Storage:
    """The storage for STORAGE_URL, without a connection yet. Raises SettingsError."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if parts.scheme == "file":
        fits = parts.path.startswith("/") and not (parts.netloc or options)
    else:
        fits = bool(parts.netloc) and "@" not in parts.netloc
    if not fits or parts.fragment or options.keys() - {"endpoint", "region"}:
        raise SettingsError(
            "STORAGE_URL: a folder is file:/// and its path from the root on,"
            " a bucket s3://bucket/prefix?endpoint=https://…&region=…"
        )
    return Storage(f"{parts.scheme}://{parts.netloc}{parts.path}", options)


def checked_path(path: str) -> str:
    """`path`, if it is valid and leads only downwards. Raises BadInput."""
    names = path.split("/")
    fine = all(_NAME.fullmatch(name) and name not in (".", "..") for name in names)
    if not fine or len(path) > MAX_PATH:
        raise BadInput(f"{path[:MAX_PATH]!r} is no path in the storage")
    return path
