"""Videos of the common kinds become an MP4 that any browser plays, and a poster."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import imageio_ffmpeg
import pytest
from PIL import Image, ImageChops, ImageStat

from app.platform.media import films
from app.platform.media.films import Look, Made
from app.platform.media.kinds import Kind, Refused, sort_of
from app.platform.media.variants import VARIANTS, Film
from tests.support.footage import SECRET, opened, video
from tests.support.spooled import spooled

FILM = next(one for one in VARIANTS[Kind.VIDEO] if isinstance(one, Film))


def looked(data: bytes) -> Look:
    with spooled(data) as file:
        return films.look(file, sort_of(file).decoder)


@contextmanager
def made(data: bytes) -> Iterator[tuple[Made, bytes, Image.Image]]:
    with spooled(data) as file:
        decoder = sort_of(file).decoder
        seen = films.look(file, decoder)
        with films.frame(file, decoder, seen, 1280) as frame:
            poster = opened(frame)
        with films.mp4(file, decoder, seen, FILM) as film:
            yield film, film.file.read(), poster


def told(mp4: bytes) -> str:
    """What ffmpeg says of it."""
    with spooled(mp4) as file:
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-i", "pipe:0"]
        return subprocess.run(command, stdin=file, capture_output=True, text=True).stderr


GOOD: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "mp4": ({}, (640, 360)),
    "mov": ({"muxer": "mov"}, (640, 360)),
    "webm": ({"muxer": "webm", "codec": "libvpx", "sound": "libvorbis"}, (640, 360)),
    "vp9": (
        {"muxer": "webm", "codec": "libvpx-vp9", "sound": "libopus", "seconds": 0.4},
        (640, 360),
    ),
    "mkv": ({"muxer": "matroska"}, (640, 360)),
    "mpeg4": ({"codec": "mpeg4"}, (640, 360)),
    "silent": ({"sound": None}, (640, 360)),
    "large": ({"size": "1920x1080", "seconds": 0.4}, (1280, 720)),
    "tall": ({"size": "1080x1920", "seconds": 0.4}, (720, 1280)),
    "wide": ({"size": "2000x500", "seconds": 0.4}, (1280, 320)),
    "odd": (
        {
            "size": "321x241",
            "filters": "scale=321:241",
            "codec": "libvpx",
            "muxer": "webm",
            "sound": None,
        },
        (320, 240),
    ),
    "tiny": ({"size": "16x16"}, (16, 16)),
    "turned": ({"rotation": 90}, (360, 640)),
    "upside down": ({"rotation": 180}, (640, 360)),
    "anamorphic": ({"filters": "setsar=2/1"}, (1280, 360)),
    "one picture": ({"seconds": 0.04, "sound": None}, (640, 360)),
}


@pytest.mark.parametrize("name", GOOD)
def test_the_common_kinds(name: str) -> None:
    options, size = GOOD[name]
    seconds = options.get("seconds", 1.0)
    with made(video(**options)) as (film, mp4, poster):
        assert (film.width, film.height) == size
        assert film.seconds == pytest.approx(seconds, abs=0.2)
        says = told(mp4)
        # The index comes first, so it plays before it is loaded.
        assert mp4.index(b"moov") < mp4.index(b"mdat")
    assert "Video: h264 (High)" in says
    assert "yuv420p" in says
    assert f", {size[0]}x{size[1]}" in says
    assert ("Audio: aac" in says) == (options.get("sound", "aac") is not None)
    assert "rotation" not in says
    assert SECRET[:8] not in says
    assert "48.8584" not in says
    assert SECRET.encode()[:8] not in mp4
    assert abs(poster.width - size[0]) <= 1
    assert abs(poster.height - size[1]) <= 1


def test_a_turned_video_stands_upright() -> None:
    """Its top left corner is where a player that heeds the rotation shows it."""
    upright = opened_poster(video())
    turned = opened_poster(video(rotation=90))
    again = turned.transpose(Image.Transpose.ROTATE_270)
    assert again.size == upright.size
    ones, others = (image.resize((16, 9)).convert("L") for image in (upright, again))
    assert ImageStat.Stat(ImageChops.difference(ones, others)).mean[0] < 12


def opened_poster(data: bytes) -> Image.Image:
    with made(data) as (_, _, poster):
        return poster


def test_a_video_that_begins_black_has_a_poster_that_is_not() -> None:
    black = "drawbox=color=black:t=fill:enable='lt(t,0.7)'"
    poster = opened_poster(video(seconds=3.0, filters=black))
    assert ImageStat.Stat(poster.convert("L")).mean[0] > 40


def test_the_same_bytes_make_the_same_bytes() -> None:
    with made(video()) as (_, one, _), made(video()) as (_, other, _):
        assert one == other


def test_a_codec_that_is_not_listed_is_refused() -> None:
    with pytest.raises(Refused, match=r"cannot be decoded|no picture"):
        looked(video(codec="mpeg2video", muxer="mov", sound=None))


@pytest.mark.parametrize(
    ("width", "height", "fits"),
    [
        (1920, 1080, (1280, 720)),
        (1080, 1920, (720, 1280)),
        (65_535, 1, (1280, 2)),
        (1, 1, (2, 2)),
        (1279, 719, (1278, 718)),
        (1000, 1000, (720, 720)),
    ],
)
def test_how_a_size_is_made_to_fit(width: int, height: int, fits: tuple[int, int]) -> None:
    assert films.fitted(Look(width, height, None), 1280, 720) == fits
