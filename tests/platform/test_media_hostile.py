"""Files made to do harm: each fails its own run with a reason, and touches nothing else."""

from __future__ import annotations

import re
import socket
import struct
import tempfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from random import Random

import pytest

from app.switchyard.errors import PayloadInvalid
from tests.support.footage import bomb, encoded, patched, photo, playlist, png, quarters, video
from tests.support.sides import Side, in_memory

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


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    folder = tmp_path / "site" / "storage"
    (folder / "up").mkdir(parents=True)
    return folder


@pytest.fixture
def on(tmp_path: Path, storage: Path) -> Iterator[Side]:
    more = {"SWITCHYARD_JOBS": "app.platform.media.jobs", "STORAGE_URL": storage.as_uri()}
    with in_memory(f"sqlite:///{tmp_path / 'test.db'}", **more) as made:
        yield made


def test_each_fails_alone_and_reaches_nothing(
    on: Side, storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    files = {name: make() for name, (make, _) in HOSTILE.items()} | {"fine.jpg": photo()}
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
    assert rows.pop("fine.jpg").status == "succeeded"
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
    late = ("half.mp4", "endless.mp4", "longer-than-it-says.webm", "fine.jpg")
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
def test_what_is_not_as_it_was_said_to_be(
    on: Side, storage: Path, said: dict[str, str], error: str
) -> None:
    (storage / "up" / "a").write_bytes(photo())
    (row,) = on.finish(on.dispatch("process-media", {"mediaId": "a", "source": "up/a", **said}))
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
