"""Videos of the common kinds become an MP4 that any browser plays, and a poster."""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import av
import pytest
from PIL import Image, ImageChops, ImageStat

from app.platform.media import decoders
from app.platform.media.kinds import VARIANTS, Film, Kind, sort_of
from tests.support.footage import SECRET, T, in_process, opened, spooled, video

FILM = next(one for one in VARIANTS[Kind.VIDEO] if isinstance(one, Film))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "decoded", in_process)


def variants(data: bytes) -> tuple[bytes, dict[str, Any], Image.Image]:
    """Its MP4, what is known of that, and its poster."""
    with spooled(data) as file:
        decoder = sort_of(file)[1]
        size = decoders.look(file, decoder)
        with decoders.frame(file, decoder, size, 1280) as (frame, _):
            poster = opened(frame)
        with decoders.mp4(file, decoder, size, FILM) as (mp4, report):
            return mp4.read(), report, poster


@cache
def poster(**options: Any) -> Image.Image:
    return variants(video(**options))[2]


def differ(one: Image.Image, other: Image.Image) -> float:
    small = (image.resize((16, 9)).convert("L") for image in (one, other))
    return ImageStat.Stat(ImageChops.difference(*small)).mean[0]


WEBM = {"muxer": "webm", "codec": "libvpx", "sounds": ("libopus",)}
GOOD: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "mp4": ({}, (640, 360)),
    "vp8": (WEBM | {"sounds": ("vorbis",)}, (640, 360)),
    "vp9": (WEBM | {"codec": "libvpx-vp9"}, (640, 360)),
    "mpeg4": ({"codec": "mpeg4"}, (640, 360)),
    "hevc": ({"codec": "libx265", "muxer": "mov", "size": "320x180"}, (320, 180)),
    "large": ({"size": "1920x1080"}, (1280, 720)),
    "tall": ({"size": "1080x1920"}, (720, 1280)),
    "odd": (WEBM | {"filters": ("scale=321:241",)}, (320, 240)),
    "anamorphic": ({"aspect": 2}, (1280, 360)),
    "one picture": ({"seconds": 0.04}, (640, 360)),
}


@pytest.mark.parametrize("name", GOOD)
def test_the_common_kinds(name: str) -> None:
    options, size = GOOD[name]
    options = {"seconds": 0.4, **options}
    mp4, report, still = variants(video(**options))
    assert (report["width"], report["height"], report["sound"]) == (*size, "kept")
    assert report["seconds"] == pytest.approx(options["seconds"], abs=0.1)
    # The index comes first, so it plays before it is loaded.
    assert mp4.index(b"moov") < mp4.index(b"mdat")
    assert SECRET.encode()[:8] not in mp4
    assert b"48.8584" not in mp4
    with av.open(io.BytesIO(mp4), "r") as film:
        (picture,), (sound,) = film.streams.video, film.streams.audio
        assert (picture.codec.name, picture.profile, picture.pix_fmt) == ("h264", "High", "yuv420p")
        assert (picture.width, picture.height) == size
        assert (sound.codec.name, sound.sample_rate, sound.channels) == ("aac", 48_000, 2)
    assert abs(still.width - size[0]) <= 1
    assert abs(still.height - size[1]) <= 1


@pytest.mark.parametrize(
    ("rotation", "mirrored"), [(90, False), (180, False), (270, True), (0, True)]
)
def test_a_turned_video_stands_upright(rotation: int, mirrored: bool) -> None:
    """Its corners are where a player that heeds the rotation shows them, in film and poster."""
    upright = poster()
    mp4, _, turned = variants(video(rotation=rotation, mirrored=mirrored))
    with av.open(io.BytesIO(mp4), "r") as film:
        frame: Any = next(film.decode(video=0))
        assert frame.rotation == 0
        assert differ(frame.to_image(), turned) < 30
    again = turned.transpose(T.FLIP_LEFT_RIGHT) if mirrored else turned
    assert again.rotate(-rotation, expand=True).size == upright.size
    assert differ(again.rotate(-rotation, expand=True), upright) < 12


@pytest.mark.parametrize(
    ("options", "sound"),
    [
        ({"sounds": ()}, "none"),
        ({"sounds": ("mp2",)}, "dropped"),
        ({"noise": True}, "dropped"),
        ({"sounds": ("mp2", "aac")}, "kept"),
    ],
)
def test_sound_that_cannot_be_decoded_is_left_out(options: Any, sound: str) -> None:
    mp4, report, _ = variants(video("matroska", **options))
    assert (report["sound"], report["seconds"]) == (sound, pytest.approx(1.0, abs=0.1))
    with av.open(io.BytesIO(mp4), "r") as film:
        assert len(film.streams) == (2 if sound == "kept" else 1)


def test_a_video_that_begins_black_has_a_poster_that_is_not() -> None:
    black = poster(seconds=3.0, filters=("drawbox=color=black:t=fill:enable='lt(t,0.7)'",))
    assert ImageStat.Stat(black.convert("L")).mean[0] > 40


def test_a_codec_that_is_not_listed_is_refused() -> None:
    data = video(codec="mpeg2video", muxer="mov")
    with spooled(data) as file, pytest.raises(SystemExit, match="no picture that can be decoded"):
        decoders.look(file, "mov")
