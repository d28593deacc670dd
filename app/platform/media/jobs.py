"""Images and videos made fit for pages."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from app.platform.gateways.storage import checked_path
from app.platform.media.kinds import VARIANTS, Kind
from app.platform.media.models import MAX_ID_LENGTH
from app.switchyard.context import Context
from app.switchyard.errors import BadInput
from app.switchyard.job import JobPayload, job


def _source(path: str) -> str:
    try:
        return checked_path(path)
    except BadInput as wrong:
        raise ValueError(str(wrong)) from None


class MediaFile(JobPayload):
    """An upload in the storage."""

    media_id: str = Field(pattern=r"^[A-Za-z0-9_.:-]+$", max_length=MAX_ID_LENGTH)
    source: Annotated[str, AfterValidator(_source)]
    """Its path there."""
    kind: Kind | None = None
    """What it must be; by default, what its bytes are."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """What its bytes must have, in hex; another one is another intent."""


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
    from app.platform.media import process  # only who processes media needs what does it

    with process.Source(ctx, payload.source) as source:
        said = (payload.kind, payload.sha256)
        about = ctx.step.run("inspect", process.inspect, source, *said)
        made = {
            wanted.name: ctx.step.run(wanted.name, process.variant, ctx, source, about, wanted)
            for wanted in VARIANTS[Kind(about["kind"])]
        }
    where = (payload.media_id, payload.source)
    return ctx.step.run("finish", process.finish, ctx, *where, about, made)
