"""Files by path, in a folder or an S3-compatible bucket; the only place that speaks to one.

`file:///folder`, or `s3://bucket/prefix?endpoint=https://…&region=…` with the usual AWS variables
for credentials. A path is names of letters, digits and `_ . = @ + -` with slashes between them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cached_property
from typing import IO, Any
from urllib.parse import parse_qsl, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import from_url

from app.switchyard import effects
from app.switchyard.errors import BadInput, SettingsError, SwitchyardError

MAX_PATH = 200
PIECE = 8 * 1024 * 1024
"""Bytes of a large file that go over the wire at once."""
_NAME = re.compile(r"[A-Za-z0-9_.=@+-]{1,140}")
_NO_FILE = re.compile(r"\(os error (20|21)\)")
"""What a path leads to, or through, is a folder where it should be a file, or the reverse."""
_ENDPOINT = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+/?")


class StorageUnavailable(SwitchyardError):
    """The storage did not do what was asked; it may be tried again."""

    status = 503
    title = "Storage unavailable"


class StorageMissing(SwitchyardError):
    """There is no such file."""

    status = 404
    title = "No such file"


class StorageTooLarge(BadInput):
    """The file is larger than its reader takes."""

    status = 413
    title = "File too large"


class Storage:
    """Keeps files by path. A put is whole or not at all: a reader sees the old file or the new one.

    `timeout_seconds` bounds each request to a bucket, of which a call makes at most three. Every
    call raises BadInput for what is no path, and StorageUnavailable.
    """

    def __init__(self, url: str, timeout_seconds: float = 15.0, **options: str) -> None:
        self._url, self._options = url, options
        self._timeout = timedelta(seconds=timeout_seconds)

    def put(self, path: str, data: bytes | IO[bytes], content_type: str) -> None:
        """Keep `data` as `path`, in place of what was there; a file is read from its beginning."""
        effects.allow("storing a file")
        large = not isinstance(data, bytes)
        if not isinstance(data, bytes):
            data.seek(0)
            large = os.fstat(data.fileno()).st_size > PIECE
        more: Any = {"use_multipart": large, "chunk_size": PIECE, "max_concurrency": 2}
        if not self._url.startswith("file:"):  # a folder keeps no types
            more["attributes"] = {"Content-Type": content_type}
        with _judged(path, reading=False):
            obstore.put(self._store, path, data, **more)

    def get(self, path: str) -> bytes:
        """What is kept as `path`. Raises StorageMissing."""
        with _judged(path):
            return bytes(obstore.get(self._store, path).bytes())

    def fetch(self, path: str, into: IO[bytes], at_most: int) -> None:
        """Write what is kept as `path` to a file, piece by piece.

        Raises StorageMissing, and StorageTooLarge where it has more than `at_most` bytes.
        """
        with _judged(path):
            # A request for each piece, since each must be answered within the timeout.
            known = obstore.head(self._store, path)
            size, version = known["size"], known["e_tag"]
            if size > at_most:
                raise StorageTooLarge(f"{path} has {size:,} bytes; {at_most:,} are the most")
            for start in range(0, size, PIECE):
                end = min(size, start + PIECE)
                got = obstore.get(self._store, path, options={"range": (start, end)})
                # Compared here, since not all that speak S3 heed If-Match.
                if got.meta["e_tag"] != version:
                    raise StorageUnavailable(f"{path} was replaced while it was fetched")
                into.write(got.bytes())

    def exists(self, path: str) -> bool:
        """Whether something is kept as `path`."""
        try:
            with _judged(path):
                return bool(obstore.head(self._store, path))
        except StorageMissing:
            return False

    def delete(self, path: str) -> None:
        """Keep `path` no longer, if it was."""
        effects.allow("deleting a file")
        with suppress(StorageMissing), _judged(path):
            obstore.delete(self._store, path)

    @property
    def _store(self) -> Any:
        # The library's threads are not in a forked child, where a call would wait forever.
        if _user.setdefault("pid", os.getpid()) != os.getpid():
            raise StorageUnavailable("this process was forked from one that had used the storage")
        return self._opened

    @cached_property
    def _opened(self) -> Any:
        if self._url.startswith("file:"):
            return from_url(self._url, mkdir=True)
        bounds: Any = {"timeout": self._timeout, "connect_timeout": min(self._timeout, _CONNECT)}
        bounds["allow_http"] = self._options.get("endpoint", "").startswith("http://")
        retries: Any = {"max_retries": 2, "retry_timeout": 2 * self._timeout}
        # Not all that speak S3 can delete many at once.
        more: Any = {"disable_bulk_delete": True, **self._options}
        return from_url(self._url, client_options=bounds, retry_config=retries, **more)


_CONNECT = timedelta(seconds=5)
_user: dict[str, int] = {}
"""The process that first used a storage."""


def open_storage(url: str) -> Storage:
    """The storage that STORAGE_URL names; nothing is asked of it yet. Raises SettingsError."""
    parts, options = urlsplit(url), dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))
    place = f"{parts.scheme}://{parts.netloc}{parts.path}"
    if parts.scheme == "file":
        if parts.netloc or not parts.path.startswith("/") or parts.query or parts.fragment:
            raise SettingsError("STORAGE_URL: a folder is file:/// and its path from the root on")
        return Storage(place)
    if not parts.netloc or "@" in parts.netloc or parts.fragment or options.keys() - _OPTIONS:
        raise SettingsError("STORAGE_URL: a bucket is s3://bucket/prefix?endpoint=…&region=…")
    if not _ENDPOINT.fullmatch(options.get("endpoint", "http://x")):
        raise SettingsError("STORAGE_URL: its endpoint must be http(s)://host:port")
    storage = Storage(place, 15.0, **options)
    try:
        _ = storage._opened
    except BaseError as wrong:
        raise SettingsError(f"STORAGE_URL: {_said(wrong)}") from None
    return storage


_OPTIONS = {"endpoint", "region"}


def _said(failure: Exception) -> str:
    return str(failure).partition("\n")[0][:200]


def checked_path(path: str) -> str:
    """`path`, which leads nowhere but down. Raises BadInput."""
    names = path.split("/")
    fine = all(_NAME.fullmatch(name) and name not in (".", "..") for name in names)
    if not fine or len(path) > MAX_PATH:
        raise BadInput(f"{path[:MAX_PATH]!r} is no path in the storage")
    return path


@contextmanager
def _judged(path: str, *, reading: bool = True) -> Iterator[None]:
    checked_path(path)
    try:
        yield
    except (OSError, ValueError, BaseError) as failure:
        said = _said(failure)
        if reading and (isinstance(failure, FileNotFoundError) or _NO_FILE.search(str(failure))):
            raise StorageMissing(f"there is no file {path}") from None
        raise StorageUnavailable(f"{path}: {type(failure).__name__}: {said}") from None
