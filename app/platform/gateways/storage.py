"""Files by path, in a folder or an S3-compatible bucket; the only place that speaks to one.

`file:///folder`, or `s3://bucket/prefix?endpoint=https://…&region=…` with the usual AWS variables
for credentials. A path is names of letters, digits and `_ . = @ + -` with slashes between them.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qs, unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

from app.switchyard import effects
from app.switchyard.errors import BadInput, SettingsError, SwitchyardError

MAX_PATH = 200
REASON_LENGTH = 200
PIECE = 8 * 1024 * 1024
"""Bytes of a large file that go over the wire at once."""
_NAME = re.compile(r"[A-Za-z0-9_.=@+-]{1,140}")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


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

    Every call raises BadInput for what is no path, and StorageUnavailable.
    """

    def __init__(self, files: Folder | Bucket) -> None:
        self._files = files

    def put(self, path: str, data: bytes | IO[bytes], content_type: str) -> None:
        """Keep `data` as `path`, in place of what was there; a file is read from its beginning."""
        effects.allow("storing a file")
        with _judged(path, ()):
            self._files.put(checked_path(path), data, content_type)

    def get(self, path: str) -> bytes:
        """What is kept as `path`. Raises StorageMissing."""
        with _judged(path):
            return self._files.get(checked_path(path))

    def fetch(self, path: str, into: IO[bytes], at_most: int) -> None:
        """Write what is kept as `path` to a file, piece by piece.

        Raises StorageMissing, and StorageTooLarge where it has more than `at_most` bytes.
        """
        with _judged(path):
            self._files.fetch(checked_path(path), into, at_most)

    def exists(self, path: str) -> bool:
        """Whether something is kept as `path`."""
        try:
            with _judged(path):
                return self._files.exists(checked_path(path))
        except StorageMissing:
            return False

    def delete(self, path: str) -> None:
        """Keep `path` no longer, if it was."""
        effects.allow("deleting a file")
        with suppress(StorageMissing), _judged(path):
            self._files.delete(checked_path(path))


class Folder:
    """A folder on this machine; it is made when something is put there."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, path: str, data: bytes | IO[bytes], content_type: str) -> None:
        target = self._root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".new-", dir=target.parent)
        try:
            with open(descriptor, "wb") as file:
                if isinstance(data, bytes):
                    file.write(data)
                else:
                    data.seek(0)
                    shutil.copyfileobj(data, file)
                file.flush()
                os.fsync(descriptor)
            os.replace(name, target)
        except BaseException:
            os.unlink(name)
            raise

    def get(self, path: str) -> bytes:
        return (self._root / path).read_bytes()

    def fetch(self, path: str, into: IO[bytes], at_most: int) -> None:
        with (self._root / path).open("rb") as file:
            _limited(path, os.fstat(file.fileno()).st_size, at_most)
            shutil.copyfileobj(file, into)

    def exists(self, path: str) -> bool:
        return (self._root / path).is_file()

    def delete(self, path: str) -> None:
        (self._root / path).unlink()


class Bucket:
    """A bucket, or what is under `prefix` in it; `options` are obstore's for an S3Store.

    `timeout_seconds` bounds each request, of which a call makes at most three.
    """

    def __init__(
        self, name: str, prefix: str | None = None, timeout_seconds: float = 15.0, **options: Any
    ) -> None:
        self._name, self._prefix, self._options = name, prefix, options
        self._timeout = timedelta(seconds=timeout_seconds)

    def put(self, path: str, data: bytes | IO[bytes], content_type: str) -> None:
        attributes: Any = {"Content-Type": content_type}
        small = isinstance(data, bytes)
        if not isinstance(data, bytes):
            data.seek(0)
            small = os.fstat(data.fileno()).st_size <= PIECE
        obstore.put(
            self._store,
            path,
            data,
            attributes=attributes,
            use_multipart=not small,
            chunk_size=PIECE,
            max_concurrency=2,
        )

    def get(self, path: str) -> bytes:
        return bytes(obstore.get(self._store, path).bytes())

    def fetch(self, path: str, into: IO[bytes], at_most: int) -> None:
        # A request for each piece, since each must be answered within the timeout.
        known = obstore.head(self._store, path)
        size, version = known["size"], known["e_tag"]
        _limited(path, size, at_most)
        for start in range(0, size, PIECE):
            end = min(size, start + PIECE)
            got = obstore.get(self._store, path, options={"range": (start, end)})
            # Compared here, since not all that speak S3 heed If-Match.
            if got.meta["e_tag"] != version:
                raise StorageUnavailable(f"{path} was replaced while it was fetched")
            into.write(got.bytes())

    def exists(self, path: str) -> bool:
        return bool(obstore.head(self._store, path))

    def delete(self, path: str) -> None:
        obstore.delete(self._store, path)

    @property
    def _store(self) -> S3Store:
        # The client's threads are not in a forked child, where a call would wait forever.
        if _user.setdefault("pid", os.getpid()) != os.getpid():
            raise StorageUnavailable("this process was forked from one that had used the storage")
        return self._client

    @cached_property
    def _client(self) -> S3Store:
        return S3Store(
            self._name,
            prefix=self._prefix,
            client_options={
                "allow_http": self._options.get("endpoint", "").startswith("http://"),
                "timeout": self._timeout,
                "connect_timeout": min(self._timeout, timedelta(seconds=5)),
            },
            retry_config={"max_retries": 2, "retry_timeout": 2 * self._timeout},
            # Not all that speak S3 can delete many at once.
            disable_bulk_delete=True,
            **self._options,
        )


_user: dict[str, int] = {}
"""The process that first used a bucket."""


def open_storage(url: str) -> Storage:
    """The storage that STORAGE_URL names; nothing is asked of it yet. Raises SettingsError."""
    parts = urlsplit(url)
    given = parse_qs(parts.query, keep_blank_values=True)
    if parts.scheme == "file":
        if parts.netloc or not parts.path.startswith("/") or given or parts.fragment:
            raise SettingsError("STORAGE_URL: a folder is file:/// and its path from the root on")
        return Storage(Folder(Path(unquote(parts.path))))
    options: dict[str, Any] = {name: values[0] for name, values in given.items()}
    if (
        not _BUCKET.fullmatch(parts.netloc)
        or parts.fragment
        or options.keys() - {"endpoint", "region"}
    ):
        raise SettingsError("STORAGE_URL: a bucket is s3://bucket/prefix?endpoint=…&region=…")
    endpoint = options.get("endpoint")
    if endpoint is not None and not re.fullmatch(r"https?://[A-Za-z0-9.:\[\]-]+/?", endpoint):
        raise SettingsError("STORAGE_URL: its endpoint must be http(s)://host:port")
    prefix = parts.path.strip("/")
    try:
        return Storage(Bucket(parts.netloc, checked_path(prefix) if prefix else None, **options))
    except BadInput as wrong:
        raise SettingsError(f"STORAGE_URL: {wrong}") from None


def checked_path(path: str) -> str:
    """`path`, which leads nowhere but down. Raises BadInput."""
    names = path.split("/")
    fine = all(_NAME.fullmatch(name) and name not in (".", "..") for name in names)
    if not fine or len(path) > MAX_PATH:
        raise BadInput(f"{path[:MAX_PATH]!r} is no path in the storage")
    return path


def _limited(path: str, size: int, at_most: int) -> None:
    if size > at_most:
        raise StorageTooLarge(f"{path} has {size:,} bytes; {at_most:,} are the most")


@contextmanager
def _judged(path: str, absent: tuple[type[OSError], ...] = _ABSENT) -> Iterator[None]:
    try:
        yield
    except absent:
        raise StorageMissing(f"there is no file {path}") from None
    except (OSError, ValueError, BaseError) as failure:
        said = str(failure).partition("\n")[0][:REASON_LENGTH]
        raise StorageUnavailable(f"{path}: {type(failure).__name__}: {said}") from None
