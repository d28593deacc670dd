"""process-media: files in the storage, a row that names them, nothing made twice; and of files made
to do harm each fails its own run with a reason, and touches nothing else."""

from __future__ import annotations

import json
import re
import socket
import struct
import tempfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import update

from app.platform.media.models import Media
from app.switchyard.errors import PayloadInvalid
from app.switchyard.runs.models import RunRow
from tests.support.footage import (
    CORNERS,
    bomb,
    corners,
    encoded,
    near,
    opened,
    patched,
    photo,
    playlist,
    png,
    quarters,
    video,
)
from tests.support.sides import Side, in_memory

PHOTO = photo(6)


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """A storage with a photo in it."""
    folder = tmp_path / "site" / "storage"
    (folder / "up").mkdir(parents=True)
    (folder / "up" / "a.jpg").write_bytes(PHOTO)
    return folder


@pytest.fixture
def on(tmp_path: Path, storage: Path) -> Iterator[Side]:
    more = {"SWITCHYARD_JOBS": "app.platform.media.jobs", "STORAGE_URL": storage.as_uri()}
    with in_memory(f"sqlite:///{tmp_path / 'test.db'}", **more) as made:
        yield made


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


def test_an_image(on: Side, storage: Path) -> None:
    row = done(on, "m1", "up/a.jpg")
    assert set(on.steps(row.id)) == {"inspect", "thumb", "small", "medium", "large", "finish"}
    about, digest = document(on, "m1"), sha256(PHOTO).hexdigest()
    assert (about["kind"], about["width"], about["height"]) == ("image", 600, 400)
    assert (about["sha256"], about["seconds"]) == (digest, None)
    assert about["placeholder"].startswith("data:image/webp;base64,")
    assert set(about["variants"]) == {"thumb", "small", "medium", "large"}
    for name, one in about["variants"].items():
        data = (storage / one["path"]).read_bytes()
        assert one["path"] == f"media/{digest}/{name}.webp"
        assert (one["bytes"], one["contentType"]) == (len(data), "image/webp")
        assert opened(data).size == (one["width"], one["height"])
        assert near(corners(opened(data)), CORNERS)
        assert set(one) == {"path", "width", "height", "bytes", "contentType"}


def test_a_video(on: Side, storage: Path) -> None:
    (storage / "up" / "b.mov").write_bytes(video("mov", rotation=90))
    row = done(on, "m2", "up/b.mov", kind="video")
    assert set(on.steps(row.id)) == {"inspect", "poster", "mp4", "finish"}
    about = document(on, "m2")
    assert (about["kind"], about["width"], about["height"]) == ("video", 360, 640)
    assert about["seconds"] == pytest.approx(1.0, abs=0.1)
    assert about["placeholder"].startswith("data:image/webp;base64,")
    poster, mp4 = about["variants"]["poster"], about["variants"]["mp4"]
    assert opened((storage / poster["path"]).read_bytes()).size == (360, 640)
    assert (storage / mp4["path"]).read_bytes()[4:8] == b"ftyp"
    assert (mp4["width"], mp4["height"], mp4["sound"]) == (360, 640, "kept")
    assert (mp4["contentType"], mp4["path"][-4:]) == ("video/mp4", ".mp4")
    assert "placeholder" not in poster


def test_an_older_run_that_ends_later_changes_nothing(on: Side, storage: Path) -> None:
    old = on.dispatch("process-media", {"mediaId": "m1", "source": "up/late.jpg"})
    assert on.memory is not None
    on.memory.work(on.runtime.engine)
    assert "StorageMissing" in on.row(old.id).error
    (storage / "up" / "late.jpg").write_bytes(photo(1, dpi=(10, 10)))
    new = done(on, "m1", "up/a.jpg")
    hurry(on, old.id)
    (row,) = on.finish(old)
    assert row.status == "succeeded"
    with on.runtime.db.session() as tx:
        assert tx.get_one(Media, "m1").run_id == new.id


# Files made to do harm


SVG = (
    b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    b'<svg xmlns="http://www.w3.org/2000/svg"><text>&x;</text></svg>'
)


def no_index() -> bytes:
    whole = video()
    return whole[: whole.index(b"moov") - 4]


def half() -> bytes:
    whole = video(seconds=6.0, front=True)
    return whole[: len(whole) // 2]


def vast_frames() -> bytes:
    """VP8 whose key frames say that they are 16,383 px wide and high."""
    return re.sub(rb"\x9d\x01\x2a\x10\0\x10\0", b"\x9d\x01\x2a\xff\x3f\xff\x3f", small_webm(1.0))


def small_webm(seconds: float) -> bytes:
    rate = 1 if seconds > 9 else 25
    return video("webm", "16x16", seconds, codec="libvpx", sounds=(), rate=rate)


def longer_than_it_says() -> bytes:
    return patched(small_webm(700.0), b"\x44\x89\x88", 0, struct.pack(">d", 3000.0))


NO_KIND, BROKEN = "is no JPEG", "cannot be decoded"
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty.jpg": (lambda: b"", "is empty"),
    "one-byte.png": (lambda: b"\x89", NO_KIND),
    "random-behind-a-head.jpg": (lambda: b"\xff\xd8\xff" + Random(5).randbytes(100_000), BROKEN),
    "page.jpg": (lambda: b"<html><script>alert(1)</script></html>", NO_KIND),
    "entity.png": (lambda: SVG, NO_KIND),
    "paper.jpg": (lambda: b"%PDF-1.7\n", NO_KIND),
    "cast.avi": (lambda: video("avi", codec="mpeg4"), NO_KIND),
    "list.mp4": (lambda: playlist("file:///etc/passwd"), NO_KIND),
    "list-in-a-box.mp4": (
        lambda: b"\0\0\0\x18ftypisom\0\0\0\0isommp42" + playlist("file:///etc/passwd"),
        BROKEN,
    ),
    "bomb.png": (bomb, "DecompressionBomb"),
    "vast.png": (lambda: png(100_000, 100_000), "DecompressionBomb"),
    "hollow.png": (lambda: png(7_000, 7_000), BROKEN),
    "cut.jpg": (lambda: photo()[:-4_000], "truncated"),
    "cut.png": (lambda: encoded(quarters(), "PNG")[:-200], BROKEN),
    "cut.webp": (lambda: encoded(quarters(), "WEBP")[:-100], BROKEN),
    "no-index.mp4": (no_index, BROKEN),
    "half.mp4": (half, "cut off after 3"),
    "vast.webm": (vast_frames, BROKEN),
    # Each of its pictures is shown for twenty minutes.
    "endless.mp4": (lambda: patched(video(sounds=()), b"stts", 12, b"\0\xff\xff\xff"), "s are the"),
    "long.webm": (lambda: small_webm(700.0), "700 s long"),
    "longer-than-it-says.webm": (longer_than_it_says, "60[0-9] s long"),
    "sound.mp4": (lambda: video(codec=None), "no picture"),
}


def test_each_fails_alone_and_reaches_nothing(
    on: Side, storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    files = {name: make() for name, (make, _) in HOSTILE.items()} | {"a.jpg": PHOTO}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        port = listener.getsockname()[1]
        files["list.mp4"] = playlist(f"http://127.0.0.1:{port}/a.ts", f"tcp://127.0.0.1:{port}")
        for name, data in files.items():
            (storage / "up" / name).write_bytes(data)
        runs = {
            name: on.dispatch("process-media", {"mediaId": name, "source": f"up/{name}"})
            for name in files
        }
        rows = dict(zip(runs, on.finish(*runs.values(), patience_seconds=200.0), strict=True))
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert rows.pop("a.jpg").status == "succeeded"
    wrong = {
        name: (row.status, row.error)
        for name, row in rows.items()
        if row.status != "failed" or not re.search(f"Refused.*{HOSTILE[name][1]}", row.error)
    }
    assert wrong == {}
    for name in rows:
        assert {step.attempts for step in on.steps(runs[name].id).values()} == {1}, name
    kept = {path.relative_to(storage) for path in storage.rglob("*") if path.is_file()}
    assert {path.name for path in kept if path.parts[0] == "up"} == set(files)
    # Of those that were seen through half way, the poster.
    late = ("half.mp4", "endless.mp4", "longer-than-it-says.webm", "a.jpg")
    hashes = {path.parts[1] for path in kept if path.parts[0] == "media"}
    assert hashes == {sha256(files[name]).hexdigest() for name in late}
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("head", "size"), [(b"\xff\xd8\xff", 64 * 1024**2 + 1), (b"", 1024**3 + 1)]
)
def test_what_is_too_large_is_not_read(on: Side, storage: Path, head: bytes, size: int) -> None:
    with (storage / "up" / "a").open("wb") as file:
        file.write(head)
        file.truncate(size)  # sparse
    (row,) = on.finish(on.dispatch("process-media", {"mediaId": "a", "source": "up/a"}))
    assert row.status == "failed"
    assert f"{size:,} bytes" in row.error


@pytest.mark.parametrize(
    ("said", "error"),
    [({"kind": "video"}, "said to be video"), ({"sha256": "0" * 64}, "another file now")],
)
def test_what_is_not_as_it_was_said_to_be(on: Side, said: dict[str, str], error: str) -> None:
    payload = {"mediaId": "a", "source": "up/a.jpg", **said}
    (row,) = on.finish(on.dispatch("process-media", payload))
    assert row.status == "failed"
    assert error in row.error


@pytest.mark.parametrize(
    "wrong",
    [
        *({"source": path} for path in ("up/../../a", "/etc/passwd", "file:///etc/passwd")),
        *({"mediaId": name} for name in ("../a", "a" * 51, None)),
        {"kind": "audio"},
        {"sha256": "abc"},
    ],
)
def test_a_payload_that_is_none(on: Side, wrong: dict[str, str | None]) -> None:
    payload = {"mediaId": "a", "source": "up/a"} | wrong
    with pytest.raises(PayloadInvalid):
        on.dispatch("process-media", payload)
