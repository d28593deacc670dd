"""Files made to do harm: each fails its own run with a reason, and touches nothing else."""

from __future__ import annotations

import json
import os
import re
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from random import Random

import pytest
from PIL import Image

from app.platform.media import films
from app.platform.media.confined import DecoderLost
from app.platform.media.jobs import MediaFile
from app.platform.media.kinds import Refused
from app.switchyard.errors import PayloadInvalid
from tests.support.footage import (
    bomb,
    encoded,
    ffmpeg,
    patched,
    photo,
    playlist,
    png,
    quarters,
    video,
    zipped,
)
from tests.support.sides import ROOT, Side, side
from tests.support.spooled import spooled

PEAK_KIB = 512 * 1024
SVG = (
    b'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
    b'<svg xmlns="http://www.w3.org/2000/svg"><text>&x;</text></svg>'
)
LONG = ("-f", "lavfi", "-i", "testsrc=size=16x16:rate=1:duration=700", "-c:v", "libvpx")


def no_index() -> bytes:
    made = video()
    return made[: made.index(b"moov") - 4]


def half() -> bytes:
    whole = ffmpeg(
        "-i",
        "pipe:0",
        "-c",
        "copy",
        "-movflags",
        "+faststart",
        "-f",
        "mp4",
        given=video("matroska", seconds=6.0),
    )
    return whole[: len(whole) // 2]


def vast_frames() -> bytes:
    """VP8 whose key frames say that they are 16,383 px wide and high."""
    made = video("webm", codec="libvpx", sound=None)
    at = made.index(b"\x9d\x01\x2a") + 3
    return made[:at] + struct.pack("<HH", 0x3FFF, 0x3FFF) + made[at + 4 :]


def endless() -> bytes:
    """Each of its pictures is shown for twenty minutes."""
    return patched(video(sound=None), b"stts", 12, b"\x00\xff\xff\xff")


def longer_than_it_says() -> bytes:
    made = bytearray(ffmpeg(*LONG, "-f", "webm"))
    at = made.index(b"\x44\x89\x88") + 3  # Duration, of eight bytes
    made[at : at + 8] = struct.pack(">d", 3000.0)
    return bytes(made)


def avi() -> bytes:
    return ffmpeg("-i", "pipe:0", "-c", "copy", "-f", "avi", given=video("matroska", codec="mpeg4"))


NO_KIND, BROKEN = "is no JPEG", "cannot be decoded"
HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty.jpg": (lambda: b"", "is empty"),
    "one-byte.png": (lambda: b"\x89", NO_KIND),
    "random.jpg": (lambda: Random(5).randbytes(100_000), NO_KIND),
    "random-behind-a-head.jpg": (lambda: b"\xff\xd8\xff" + Random(5).randbytes(100_000), BROKEN),
    "page.jpg": (lambda: b"<html><script>alert(1)</script></html>", NO_KIND),
    "entity.png": (lambda: SVG, NO_KIND),
    "paper.jpg": (lambda: b"%PDF-1.7\n", NO_KIND),
    "script.eps": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n", NO_KIND),
    "archive.jpg": (zipped, NO_KIND),
    "cast.avi": (avi, NO_KIND),
    "phone.heic": (lambda: b"\0\0\0\x18ftypheic" + bytes(100), "HEIC"),
    "list.mp4": (lambda: playlist("file:///etc/passwd"), NO_KIND),
    "script.mp4": (lambda: b"ffconcat version 1.0\nfile /etc/passwd\n", NO_KIND),
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
    "half.mp4": (half, "cut off after"),
    "vast.webm": (vast_frames, BROKEN),
    "endless.mp4": (endless, "600 s are the most"),
    "long.webm": (lambda: ffmpeg(*LONG, "-f", "webm"), "700 s long"),
    "longer-than-it-says.webm": (longer_than_it_says, "61. s long|60. s long"),
    "sound.mp4": (
        lambda: ffmpeg("-f", "lavfi", "-i", "sine=duration=1", "-c:a", "aac", "-f", "mp4"),
        BROKEN,
    ),
}


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    folder = tmp_path / "site" / "storage"
    (folder / "up").mkdir(parents=True)
    return folder


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def on(tmp_path: Path, storage: Path) -> Iterator[Side]:
    more = {"SWITCHYARD_JOBS": "app.platform.media.jobs", "STORAGE_URL": storage.as_uri()}
    url = f"sqlite:///{tmp_path / 'test.db'}"
    with side("memory", url, "redis://127.0.0.1:1", tmp_path, **more) as made:
        yield made


def test_each_fails_alone_and_reaches_nothing(on: Side, storage: Path, temporary: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        port = listener.getsockname()[1]
        calling = playlist(f"http://127.0.0.1:{port}/a.ts", f"tcp://127.0.0.1:{port}")
        files = {name: make() for name, (make, _) in HOSTILE.items()} | {"calling.mp4": calling}
        files["fine.jpg"] = photo()
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
    assert rows.pop("calling.mp4").status == "failed"
    wrong = {
        name: (row.status, row.error)
        for name, row in rows.items()
        if row.status != "failed" or not re.search(HOSTILE[name][1], row.error)
    }
    assert wrong == {}
    for name, row in rows.items():
        assert "Refused" in row.error, row.error
        attempts = {step.attempts for step in on.steps(runs[name].id).values()}
        assert attempts == {1}, name
    kept = {p.relative_to(storage) for p in storage.rglob("*") if p.is_file()}
    hashes = {path.parts[1] for path in kept if path.parts[0] == "media"}
    assert {path.name for path in kept if path.parts[0] == "up"} == set(files)
    # Of those that were found out half way, the poster.
    late = ("half.mp4", "endless.mp4", "longer-than-it-says.webm")
    half_way = {sha256(files[name]).hexdigest() for name in late}
    assert hashes == {sha256(files["fine.jpg"]).hexdigest()} | half_way
    assert list(temporary.iterdir()) == []
    assert [p.name for p in storage.parent.iterdir()] == ["storage"]


@pytest.mark.parametrize("decoder", ["hls", "concat", "dash", "sdp"])
def test_what_is_fooled_into_another_demuxer_still_opens_nothing(decoder: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/a"
        texts = {
            "hls": playlist(url, "file:///etc/passwd"),
            "concat": f"ffconcat version 1.0\nfile '{url}'\n".encode(),
            "dash": f'<MPD type="static"><BaseURL>{url}</BaseURL><Period><AdaptationSet><Represent'
            f'ation id="a"><SegmentList><SegmentURL media="{url}"/></SegmentList></Representation>'
            "</AdaptationSet></Period></MPD>".encode(),
            "sdp": b"v=0\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        }
        with spooled(texts[decoder]) as file, pytest.raises((Refused, DecoderLost)):
            films.look(file, decoder)
        with pytest.raises(BlockingIOError):
            listener.accept()


LARGE: dict[str, Callable[[], bytes]] = {
    "photo.jpg": lambda: encoded(
        quarters(8_000, 6_000), "JPEG", progressive=True, subsampling=0, quality=70
    ),
    "alpha.png": lambda: encoded(quarters(8_000, 6_000).convert("RGBA"), "PNG", compress_level=1),
    "grey.png": lambda: encoded(
        Image.linear_gradient("L").resize((8_000, 6_000)).convert("I;16"),
        "PNG",
        compress_level=1,
        transparency=0,
    ),
    "film.mp4": lambda: video(size="3840x2160", seconds=1.2),
}
TRAPS = ("bomb.png", "vast.png", "hollow.png", "vast.webm", "endless.mp4")


def test_none_takes_more_memory_than_it_may(tmp_path: Path) -> None:
    """In a process of its own: a child's peak begins with what its parent had."""
    for name in TRAPS:
        (tmp_path / name).write_bytes(HOSTILE[name][0]())
    for name, make in LARGE.items():
        (tmp_path / name).write_bytes(make())
    command = [sys.executable, "-m", "tests.support.peak", *sorted(os.listdir(tmp_path))]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, check=True, capture_output=True)
    found = json.loads(done.stdout)
    assert {name: said for name, (said, _) in found.items() if said == "made"}.keys() == set(LARGE)
    assert {name: peak for name, (_, peak) in found.items() if peak >= PEAK_KIB} == {}


def test_what_is_too_large_is_not_read(on: Side, storage: Path) -> None:
    sizes = {"photo.jpg": (b"\xff\xd8\xff", 64 * 1024**2 + 1), "film.mp4": (b"", 1024**3 + 1)}
    runs = []
    for name, (head, size) in sizes.items():
        with (storage / "up" / name).open("wb") as file:
            file.write(head)
            file.truncate(size)  # sparse
        runs.append(on.dispatch("process-media", {"mediaId": name, "source": f"up/{name}"}))
    photo_row, film_row = on.finish(*runs)
    assert "67,108,865 bytes" in photo_row.error
    assert "1,073,741,825 bytes" in film_row.error
    assert {photo_row.status, film_row.status} == {"failed"}


def test_what_is_not_as_it_was_said_to_be(on: Side, storage: Path) -> None:
    (storage / "up" / "a").write_bytes(photo())
    source = {"source": "up/a"}
    lies = [{"kind": "video"}, {"sha256": "0" * 64}]
    truth = [{"kind": "image"}, {"sha256": sha256(photo()).hexdigest()}]
    runs = [
        on.dispatch("process-media", {"mediaId": f"m{n}", **source, **said})
        for n, said in enumerate([*lies, *truth])
    ]
    rows = on.finish(*runs)
    assert [row.status for row in rows] == ["failed"] * 2 + ["succeeded"] * 2
    assert "said to be video" in rows[0].error
    assert "another file now" in rows[1].error


@pytest.mark.parametrize(
    "payload",
    [
        {"mediaId": "a", "source": "../up/a"},
        {"mediaId": "a", "source": "/etc/passwd"},
        {"mediaId": "a", "source": "up/../../a"},
        {"mediaId": "a", "source": "file:///etc/passwd"},
        {"mediaId": "a", "source": "up/a\0"},
        {"mediaId": "../a", "source": "up/a"},
        {"mediaId": "", "source": "up/a"},
        {"mediaId": "a" * 51, "source": "up/a"},
        {"mediaId": "a", "source": "up/a", "kind": "audio"},
        {"mediaId": "a", "source": "up/a", "sha256": "abc"},
        {"mediaId": "a"},
        {"source": "up/a"},
    ],
)
def test_a_payload_that_is_none(on: Side, payload: dict[str, str]) -> None:
    with pytest.raises(PayloadInvalid):
        on.dispatch("process-media", payload)


def test_the_key_fits_the_ledger() -> None:
    longest = MediaFile(media_id="m" * 50, source="/".join(["s" * 99, "s" * 100]))
    key = on_key(longest)
    assert key is not None
    assert len(key) <= 255


def on_key(payload: MediaFile) -> str | None:
    from app.switchyard.job import load

    key = load("app.platform.media.jobs")["process-media"].key
    assert key is not None
    return key(payload)
