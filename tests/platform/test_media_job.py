"""process-media: files in the storage, a row that names them, nothing made twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from app.platform.media.models import Media
from app.switchyard.runs.models import RunRow
from tests.support.footage import CORNERS, corners, near, opened, photo, video
from tests.support.sides import Side, in_memory

PHOTO = photo(6)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    up = tmp_path / "storage" / "up"
    up.mkdir(parents=True)
    (up / "a.jpg").write_bytes(PHOTO)
    return up.parent


@pytest.fixture
def on(tmp_path: Path, folder: Path) -> Iterator[Side]:
    env = {"SWITCHYARD_JOBS": "app.platform.media.jobs", "STORAGE_URL": folder.as_uri()}
    with in_memory(f"sqlite:///{tmp_path / 'test.db'}", **env) as on:
        yield on


def document(on: Side, media_id: str) -> dict[str, Any]:
    with on.runtime.db.session() as tx:
        return dict(json.loads(tx.get_one(Media, media_id).document))


def done(on: Side, media_id: str, source: str, **more: str) -> Any:
    run = on.dispatch("process-media", {"mediaId": media_id, "source": source, **more})
    (row,) = on.finish(run)
    assert row.status == "succeeded", row.error
    assert json.loads(row.result) == document(on, media_id)
    return row


def hurry(on: Side, run_id: str) -> None:
    """Let the run be due now, not after its gap."""
    now = on.runtime.store.clock()
    with on.runtime.db.begin() as connection:
        chosen = update(RunRow).where(RunRow.id == run_id)
        connection.execute(chosen.values(due_at=now, check_at=now, send_at=now))


def test_an_image(on: Side, folder: Path) -> None:
    row = done(on, "m1", "up/a.jpg")
    assert set(on.steps(row.id)) == {"inspect", "thumb", "small", "medium", "large", "finish"}
    about, digest = document(on, "m1"), sha256(PHOTO).hexdigest()
    assert (about["kind"], about["width"], about["height"]) == ("image", 600, 400)
    assert (about["sha256"], about["seconds"]) == (digest, None)
    assert about["placeholder"].startswith("data:image/webp;base64,")
    assert set(about["variants"]) == {"thumb", "small", "medium", "large"}
    for name, one in about["variants"].items():
        data = (folder / one["path"]).read_bytes()
        assert one["path"] == f"media/{digest}/{name}.webp"
        assert (one["bytes"], one["contentType"]) == (len(data), "image/webp")
        assert opened(data).size == (one["width"], one["height"])
        assert near(corners(opened(data)), CORNERS)
        assert set(one) == {"path", "width", "height", "bytes", "contentType"}


def test_a_video(on: Side, folder: Path) -> None:
    (folder / "up" / "b.mov").write_bytes(video("mov", rotation=90))
    row = done(on, "m2", "up/b.mov", kind="video")
    assert set(on.steps(row.id)) == {"inspect", "poster", "mp4", "finish"}
    about = document(on, "m2")
    assert (about["kind"], about["width"], about["height"]) == ("video", 360, 640)
    assert about["seconds"] == pytest.approx(1.0, abs=0.1)
    assert about["placeholder"].startswith("data:image/webp;base64,")
    poster, mp4 = about["variants"]["poster"], about["variants"]["mp4"]
    assert opened((folder / poster["path"]).read_bytes()).size == (360, 640)
    assert (folder / mp4["path"]).read_bytes()[4:8] == b"ftyp"
    assert (mp4["width"], mp4["height"], mp4["sound"]) == (360, 640, "kept")
    assert (mp4["contentType"], mp4["path"][-4:]) == ("video/mp4", ".mp4")
    assert "placeholder" not in poster


def test_an_older_run_that_ends_later_changes_nothing(on: Side, folder: Path) -> None:
    old = on.dispatch("process-media", {"mediaId": "m1", "source": "up/late.jpg"})
    assert on.memory is not None
    on.memory.work(on.runtime.engine)
    assert "StorageMissing" in on.row(old.id).error
    (folder / "up" / "late.jpg").write_bytes(photo(1, dpi=(10, 10)))
    new = done(on, "m1", "up/a.jpg")
    hurry(on, old.id)
    (row,) = on.finish(old)
    assert row.status == "succeeded"
    with on.runtime.db.session() as tx:
        assert tx.get_one(Media, "m1").run_id == new.id
