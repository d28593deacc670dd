"""The steps of processing one file: look at it, make each variant, keep the whole.

What is made is named by the bytes it is made of and by how: the same bytes make the same files.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from types import TracebackType
from typing import IO, Any

from sqlalchemy.orm import Session

from app.platform.gateways.storage import Storage, StorageUnavailable
from app.platform.ledger.postings import connection_of
from app.platform.media import films, pictures
from app.platform.media.kinds import Kind, Refused, sort_of
from app.platform.media.models import Media, MediaMade, media, media_made
from app.platform.media.variants import PLACEHOLDER, Film, Picture, Variant, recipe
from app.switchyard.context import Context
from app.switchyard.crash import point
from app.switchyard.db import INSERT, canonical_json

FOLDER = "media"
MAX_BYTES = {Kind.IMAGE: pictures.MAX_BYTES, Kind.VIDEO: films.MAX_BYTES}


class Source:
    """The file a run works on: fetched at the slice's first need of it, gone with the slice."""

    def __init__(self, ctx: Context, path: str) -> None:
        self._ctx = ctx
        self._path = path
        self._file: IO[bytes] | None = None
        self.sha256 = ""

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: object, _traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def file(self, sha256: str | None = None) -> IO[bytes]:
        """It, with the hash it must have. Raises Refused where it has another, and as
        Storage.fetch does."""
        if self._file is None:
            # It has no name: nothing of it is left, however this process ends.
            file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the slice
            try:
                storage_of(self._ctx).fetch(self._path, file, max(MAX_BYTES.values()))
                file.seek(0)
                self.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            except BaseException:
                file.close()
                raise
            self._file = file
        if sha256 is not None and sha256 != self.sha256:
            raise Refused(f"{self._path} is another file now: its SHA-256 is {self.sha256}")
        return self._file


def storage_of(ctx: Context) -> Storage:
    """The storage. Raises StorageUnavailable where there is none."""
    storage: Storage | None = ctx.gateways.storage
    if storage is None:
        raise StorageUnavailable("there is no storage")
    return storage


def inspect(
    tx: Session, ctx: Context, source: Source, kind: str | None, sha256: str | None
) -> dict[str, Any]:
    """What the source is, where it can be decoded; `kind` and `sha256` are what its owner says of
    it. Raises Refused."""
    file = source.file(sha256)

    def about() -> dict[str, Any]:
        sort = sort_of(file)
        most, bytes_ = MAX_BYTES[sort.kind], os.fstat(file.fileno()).st_size
        if bytes_ > most:
            raise Refused(f"it has {bytes_:,} bytes; {most:,} are the most for {sort.kind}s")
        if sort.kind is Kind.IMAGE:
            shown, (width, height) = pictures.placeholder(file, sort.decoder)
            seconds = None
        else:
            seen = films.look(file, sort.decoder)
            shown, width, height, seconds = None, seen.width, seen.height, seen.seconds
        size = {"width": width, "height": height, "seconds": seconds, "placeholder": shown}
        return {"sha256": source.sha256, "kind": sort.kind.value, "decoder": sort.decoder, **size}

    found = _once(tx, ctx, source.sha256, f"about-{recipe(PLACEHOLDER)}", about)
    if kind is not None and kind != found["kind"]:
        raise Refused(f"it was said to be {kind}, and is {found['kind']}")
    return found


def variant(
    tx: Session, ctx: Context, source: Source, about: dict[str, Any], wanted: Variant
) -> dict[str, Any]:
    """Make one variant and put it into the storage: its path, size, and what else is known of it.

    Raises Refused.
    """

    def make() -> dict[str, Any]:
        file, decoder = source.file(about["sha256"]), about["decoder"]
        if about["kind"] == Kind.IMAGE:
            assert isinstance(wanted, Picture)
            return _still(file, decoder, wanted)
        seen = films.Look(about["width"], about["height"], about["seconds"])
        if isinstance(wanted, Film):
            with films.mp4(file, decoder, seen, wanted) as made:
                kept = keep(made.file, "mp4", "video/mp4")
                size = {"width": made.width, "height": made.height}
                return {**kept, **size, "seconds": round(made.seconds, 3)}
        with films.frame(file, decoder, seen, wanted.edge) as frame:
            shown, _ = pictures.placeholder(frame, "PNG")
            return {**_still(frame, "PNG", wanted), "placeholder": shown}

    def _still(file: IO[bytes], decoder: str, picture: Picture) -> dict[str, Any]:
        with pictures.picture(file, decoder, picture) as still:
            kept = keep(still.file, "webp", "image/webp")
            return {**kept, "width": still.width, "height": still.height}

    def keep(file: IO[bytes], ending: str, content_type: str) -> dict[str, Any]:
        point("media.made")
        path = f"{FOLDER}/{about['sha256']}/{recipe(wanted)}.{ending}"
        storage_of(ctx).put(path, file, content_type)
        point("media.put")
        size = os.fstat(file.fileno()).st_size
        return {"path": path, "bytes": size, "contentType": content_type}

    return _once(tx, ctx, about["sha256"], recipe(wanted), make)


def finish(
    tx: Session, ctx: Context, media_id: str, path: str, about: dict[str, Any], made: dict[str, Any]
) -> dict[str, Any]:
    """Let the media be known with all that was made; what it is then (the run's result)."""
    variants = {name: dict(one) for name, one in made.items()}
    shown = [one.pop("placeholder", None) for one in variants.values()]
    document = {
        **{name: about[name] for name in ("kind", "sha256", "width", "height")},
        "mediaId": media_id,
        "seconds": next((one["seconds"] for one in variants.values() if "seconds" in one), None),
        "placeholder": about["placeholder"] or next(filter(None, shown), None),
        "variants": variants,
    }
    connection = connection_of(tx)
    insert = INSERT[connection.dialect.name](media).values(
        id=media_id,
        source=path,
        document=canonical_json(document),
        run_id=ctx.run_id,
        made_at=ctx.now(),
    )
    new = insert.excluded
    connection.execute(
        insert.on_conflict_do_update(
            index_elements=["id"],
            set_={name: new[name] for name in ("source", "document", "run_id", "made_at")},
            where=Media.run_id <= new.run_id,  # an id begins with its time
        )
    )
    return document


def _once(
    tx: Session, ctx: Context, sha256: str, name: str, make: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """What `make` made of these bytes, now or before; before, if its file is still there."""
    with ctx.transaction() as reading:
        known = reading.get(MediaMade, (sha256, name))
        document = None if known is None else known.document
    if document is not None:
        made: dict[str, Any] = json.loads(document)
        if "path" not in made or storage_of(ctx).exists(made["path"]):
            return made
    made = make()
    connection = connection_of(tx)
    insert = INSERT[connection.dialect.name](media_made).values(
        sha256=sha256, recipe=name, document=canonical_json(made), made_at=ctx.now()
    )
    connection.execute(
        insert.on_conflict_do_update(
            index_elements=["sha256", "recipe"], set_={"document": insert.excluded.document}
        )
    )
    return made
