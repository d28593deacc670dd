"""process-media on each backend: files in the storage, a row that names them, nothing twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from app.platform.gateways.storage import Storage, open_storage
from app.platform.media.models import Media, media_made
from app.switchyard.runs.models import RunRow
from tests.support.bucket import serving_bucket
from tests.support.footage import CORNERS, corners, near, opened, photo, video
from tests.support.sides import Side, side

IMAGE_STEPS = {"inspect", "thumb", "small", "medium", "large", "finish"}
VIDEO_STEPS = {"inspect", "poster", "mp4", "finish"}
FILES = {"up/a.jpg": photo(6), "up/b.mov": video("mov", rotation=90), "up/bad.jpg": b"<html>"}


def environ(url: str) -> dict[str, str]:
    return {"SWITCHYARD_JOBS": "app.platform.media.jobs", "STORAGE_URL": url}


def filled(url: str) -> Storage:
    storage = open_storage(url)
    for path, data in FILES.items():
        storage.put(path, data, "application/octet-stream")
    return storage


def document(on: Side, media_id: str) -> dict[str, Any]:
    with on.made.db.session() as tx:
        row = tx.get_one(Media, media_id)
        return dict(json.loads(row.document))


def check_photo(storage: Storage, found: dict[str, Any]) -> None:
    digest = sha256(FILES["up/a.jpg"]).hexdigest()
    assert (found["kind"], found["width"], found["height"]) == ("image", 600, 400)
    assert found["sha256"] == digest
    assert found["placeholder"].startswith("data:image/webp;base64,")
    assert set(found["variants"]) == {"thumb", "small", "medium", "large"}
    for name, one in found["variants"].items():
        data = storage.get(one["path"])
        image = opened(data)
        assert one["path"].startswith(f"media/{digest}/{name}-")
        assert (one["bytes"], one["contentType"]) == (len(data), "image/webp")
        assert image.size == (one["width"], one["height"])
        assert near(corners(image), CORNERS)


def check_video(storage: Storage, found: dict[str, Any]) -> None:
    assert (found["kind"], found["width"], found["height"]) == ("video", 360, 640)
    assert found["seconds"] == pytest.approx(1.0, abs=0.1)
    assert found["placeholder"].startswith("data:image/webp;base64,")
    poster, mp4 = found["variants"]["poster"], found["variants"]["mp4"]
    assert opened(storage.get(poster["path"])).size == (360, 640)
    assert storage.get(mp4["path"])[4:8] == b"ftyp"
    assert (mp4["width"], mp4["height"], mp4["contentType"]) == (360, 640, "video/mp4")
    assert mp4["path"].endswith(".mp4")
    assert "placeholder" not in poster


def go(on: Side, storage: Storage) -> None:
    runs = [
        on.dispatch("process-media", {"mediaId": "m1", "source": "up/a.jpg"}),
        on.dispatch("process-media", {"mediaId": "m2", "source": "up/b.mov", "kind": "video"}),
        on.dispatch("process-media", {"mediaId": "m3", "source": "up/bad.jpg"}),
    ]
    image, film, bad = on.finish(*runs)
    assert (image.status, film.status) == ("succeeded", "succeeded"), (image.error, film.error)
    assert (bad.status, "Refused" in bad.error) == ("failed", True)
    assert set(on.steps(image.id)) == IMAGE_STEPS
    assert set(on.steps(film.id)) == VIDEO_STEPS
    assert json.loads(image.result) == document(on, "m1")
    assert json.loads(film.result) == document(on, "m2")
    check_photo(storage, document(on, "m1"))
    check_video(storage, document(on, "m2"))
    again = on.dispatch("process-media", {"mediaId": "m1", "source": "up/a.jpg"})
    assert (again.created, again.id) == (False, image.id)


@pytest.mark.parametrize(
    ("backend", "database_url"),
    [("memory", "sqlite"), ("memory", "postgres"), ("rq", "sqlite"), ("inngest", "postgres")],
    indirect=["database_url"],
)
def test_on_each_backend(backend: str, database_url: str, redis_url: str, tmp_path: Path) -> None:
    url = (tmp_path / "storage").as_uri()
    storage = filled(url)
    with side(backend, database_url, redis_url, tmp_path, **environ(url)) as on:
        go(on, storage)


def test_in_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    database = f"sqlite:///{tmp_path / 'test.db'}"
    with serving_bucket(tmp_path) as address:
        url = f"s3://statements/some/where?endpoint={address}"
        storage = filled(url)
        with side("memory", database, "redis://127.0.0.1:1", tmp_path, **environ(url)) as on:
            go(on, storage)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "storage"


@pytest.fixture
def on(database_url: str, tmp_path: Path, folder: Path) -> Iterator[Side]:
    filled(folder.as_uri())
    env = environ(folder.as_uri())
    with side("memory", database_url, "redis://127.0.0.1:1", tmp_path, **env) as made:
        yield made


def done(on: Side, media_id: str, source: str, **more: str) -> Any:
    run = on.dispatch("process-media", {"mediaId": media_id, "source": source, **more})
    (row,) = on.finish(run)
    assert row.status == "succeeded", row.error
    return row


def hurry(on: Side, run_id: str) -> None:
    """Let the run be due now, not after its gap."""
    now = on.made.store.clock()
    with on.made.db.begin() as connection:
        chosen = update(RunRow).where(RunRow.id == run_id)
        connection.execute(chosen.values(due_at=now, check_at=now))


def written(folder: Path) -> dict[str, int]:
    return {
        str(path): path.stat().st_mtime_ns for path in folder.rglob("media/**/*") if path.is_file()
    }


def test_the_same_bytes_are_not_worked_on_twice(on: Side, folder: Path) -> None:
    done(on, "m1", "up/a.jpg")
    before = written(folder)
    assert len(before) == 4
    (folder / "up" / "copy.png").write_bytes(FILES["up/a.jpg"])
    done(on, "m2", "up/copy.png")
    assert written(folder) == before
    assert document(on, "m2") == document(on, "m1") | {"mediaId": "m2"}
    with on.made.db.autocommit() as connection:
        assert len(connection.execute(select(media_made.c.recipe)).all()) == 5
    # A file that is gone is made again, alone.
    lost = min(before)
    Path(lost).unlink()
    done(on, "m3", "up/a.jpg")
    after = written(folder)
    assert after.keys() == before.keys()
    assert {path for path in after if after[path] != before[path]} == {lost}


def test_other_bytes_for_the_same_media_replace_it_whole(on: Side, folder: Path) -> None:
    done(on, "m1", "up/a.jpg")
    other = photo(1, dpi=(10, 10))
    (folder / "up" / "a.jpg").write_bytes(other)
    run = on.dispatch("process-media", {"mediaId": "m1", "source": "up/a.jpg"})
    assert not run.created
    done(on, "m1", "up/a.jpg", sha256=sha256(other).hexdigest())
    assert document(on, "m1")["sha256"] == sha256(other).hexdigest()


def test_an_older_run_that_ends_later_changes_nothing(on: Side, folder: Path) -> None:
    old = on.dispatch("process-media", {"mediaId": "m1", "source": "up/late.jpg"})
    assert on.memory is not None
    on.memory.work(on.made.engine)
    assert "StorageMissing" in on.row(old.id).error
    (folder / "up" / "late.jpg").write_bytes(photo(1, dpi=(10, 10)))
    new = done(on, "m1", "up/a.jpg")
    hurry(on, old.id)
    (row,) = on.finish(old)
    assert row.status == "succeeded"
    with on.made.db.session() as tx:
        assert tx.get_one(Media, "m1").run_id == new.id


def test_a_storage_that_is_away_is_tried_again(on: Side, folder: Path, tmp_path: Path) -> None:
    away = tmp_path / "away"
    folder.rename(away)
    folder.write_text("not a folder")
    run = on.dispatch("process-media", {"mediaId": "m1", "source": "up/a.jpg"})
    on.settle(0.3)
    row = on.row(run.id)
    assert row.status == "waiting"
    assert "Storage" in row.error
    assert timedelta(0) < row.due_at - on.made.store.clock() <= timedelta(seconds=10)
    folder.unlink()
    away.rename(folder)
    hurry(on, run.id)
    (row,) = on.finish(run)
    assert row.status == "succeeded", row.error
