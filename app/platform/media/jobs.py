"""The job that makes variants of images and videos for pages.

Files are named after the hash of their source, so that the same bytes make the same files.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import ExitStack
from typing import IO, Annotated, Any

from pydantic import AfterValidator, Field
from sqlalchemy.orm import Session

from app.platform.db import insert
from app.platform.gateways.storage import checked_path
from app.platform.media import decoders, kinds
from app.platform.media.models import MAX_ID_LENGTH, Media
from app.switchyard.context import Context
from app.switchyard.db import canonical_json
from app.switchyard.errors import BadInput
from app.switchyard.job import JobPayload, job

FOLDER = "media"


def _source(path: str) -> str:
    try:
        return checked_path(path)
    except BadInput as wrong:
        raise ValueError(str(wrong)) from None


class MediaFile(JobPayload):
    """An upload in the storage."""

    media_id: str = Field(pattern=r"^[A-Za-z0-9_.:-]+$", max_length=MAX_ID_LENGTH)
    source: Annotated[str, AfterValidator(_source)]
    """The path in the storage."""
    kind: kinds.Kind | None = None
    """The kind that it must be. The default is the kind that its bytes show."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """The hash that its bytes must have, in hex. Another hash means another run."""


@job(
    "process-media",
    event="media.process",
    payload=MediaFile,
    queue="media",
    key=lambda payload: f"{payload.media_id}:{payload.sha256 or payload.source}",
    concurrency=4,
    timeout=3600.0,
)
def process_media(ctx: Context, payload: MediaFile) -> dict[str, Any]:
    """Make the variants of an image or a video, a step each; where they are, and a placeholder."""
    with Source(ctx, payload.source) as source:
        about = ctx.step.run("inspect", inspect, source, payload.kind, payload.sha256)
        made = {
            wanted.name: ctx.step.run(wanted.name, variant, ctx, source, about, wanted)
            for wanted in kinds.VARIANTS[kinds.Kind(about["kind"])]
        }
    return ctx.step.run("finish", finish, ctx, payload, about, made)


class Source(ExitStack):
    """The file of a run, fetched when a slice first needs it and deleted when the slice ends."""

    def __init__(self, ctx: Context, path: str) -> None:
        super().__init__()
        self._ctx, self._path = ctx, path
        self._file: IO[bytes] | None = None
        self.sha256 = ""

    def file(self, sha256: str | None = None) -> IO[bytes]:
        """The file. Raises Refused where it has another hash, and as Storage.fetch does."""
        if self._file is None:
            # It has no name, so that nothing is left of it, however this process ends.
            file = self.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - it is one
            self._ctx.gateways.storage.fetch(self._path, file, max(decoders.MAX_BYTES.values()))
            file.seek(0)
            self.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            self._file = file
        if sha256 is not None and sha256 != self.sha256:
            raise kinds.Refused(f"{self._path} is another file now: its SHA-256 is {self.sha256}")
        return self._file


def inspect(_tx: Session, source: Source, kind: str | None, sha256: str | None) -> dict[str, Any]:
    """Inspect the source, which must be decodable and have this `kind` and `sha256`, where given.
    Raises Refused."""
    file = source.file(sha256)
    sort, decoder = kinds.sort_of(file)
    most, size = decoders.MAX_BYTES[sort], os.fstat(file.fileno()).st_size
    if size > most:
        raise kinds.Refused(f"it has {size:,} bytes; the limit for {sort}s is {most:,}")
    if kind is not None and kind != sort:
        raise kinds.Refused(f"it was said to be {kind}, and is {sort}")
    shown = None
    if sort is kinds.Kind.IMAGE:
        shown, (width, height) = decoders.placeholder(file, decoder)
    else:
        width, height = decoders.look(file, decoder)
    about = {"sha256": source.sha256, "kind": sort.value, "decoder": decoder}
    return {**about, "width": width, "height": height, "placeholder": shown}


def variant(
    _tx: Session, ctx: Context, source: Source, about: dict[str, Any], wanted: kinds.Variant
) -> dict[str, Any]:
    """Make and store a variant. Returns its path, its size and other details. Raises Refused."""
    file, decoder = source.file(about["sha256"]), about["decoder"]
    size = [about["width"], about["height"]]

    def keep(made: IO[bytes], content_type: str, **report: Any) -> dict[str, Any]:
        ending = content_type.rpartition("/")[2]
        path = f"{FOLDER}/{about['sha256']}/{wanted.name}.{ending}"
        ctx.gateways.storage.put(path, made, content_type)
        size = os.fstat(made.fileno()).st_size
        return {"path": path, "bytes": size, "contentType": content_type, **report}

    def still(file: IO[bytes], decoder: str, picture: kinds.Picture) -> dict[str, Any]:
        with decoders.webp(file, decoder, picture) as (webp, report):
            return keep(webp, "image/webp", width=report["width"], height=report["height"])

    if isinstance(wanted, kinds.Film):
        with decoders.mp4(file, decoder, size, wanted) as (mp4, report):
            return keep(mp4, "video/mp4", **report)
    if about["kind"] == kinds.Kind.IMAGE:
        return still(file, decoder, wanted)
    with decoders.frame(file, decoder, size, wanted.edge) as (frame, _):
        shown, _ = decoders.placeholder(frame, "PNG")
        return {**still(frame, "PNG", wanted), "placeholder": shown}


def finish(
    tx: Session, ctx: Context, payload: MediaFile, about: dict[str, Any], made: dict[str, Any]
) -> dict[str, Any]:
    """Record the media with all its variants. Returns its document, which is the run's result."""
    variants = {name: dict(one) for name, one in made.items()}
    shown = [one.pop("placeholder", None) for one in variants.values()]
    document = {
        **{name: about[name] for name in ("kind", "sha256", "width", "height")},
        "mediaId": payload.media_id,
        "seconds": next((one["seconds"] for one in variants.values() if "seconds" in one), None),
        "placeholder": about["placeholder"] or next(filter(None, shown), None),
        "variants": variants,
    }
    row: dict[str, Any] = {"document": canonical_json(document), "run_id": ctx.run_id}
    new = insert(tx, Media).values(id=payload.media_id, **row)
    # Run ids begin with a time: an older run that ends later changes nothing.
    newer = Media.run_id <= new.excluded.run_id
    tx.connection().execute(new.on_conflict_do_update(index_elements=["id"], set_=row, where=newer))
    return document
