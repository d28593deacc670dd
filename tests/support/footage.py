"""Images and videos, made on the spot: good ones, and ones made to do harm."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import chain
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, Any
from warnings import catch_warnings

import av
from av.filter import Graph
from PIL import Image, ImageCms, ImageDraw

from app.platform.media import draw, transcode

RED, GREEN, BLUE, WHITE = (220, 30, 30), (30, 200, 30), (30, 30, 220), (250, 250, 250)
CORNERS = (RED, GREEN, BLUE, WHITE)
"""Top left, top right, bottom left, bottom right."""
SECRET = "Secret Place 48.8584 N 2.2945 E"
T = Image.Transpose
TURNED = {
    1: None,
    2: T.FLIP_LEFT_RIGHT,
    3: T.ROTATE_180,
    4: T.FLIP_TOP_BOTTOM,
    5: T.TRANSPOSE,
    6: T.ROTATE_90,
    7: T.TRANSVERSE,
    8: T.ROTATE_270,
}
"""How a camera lays down an upright image, by the EXIF orientation it then writes."""


def quarters(width: int = 600, height: int = 400) -> Image.Image:
    """An image with a colour in each corner."""
    image = Image.new("RGB", (width, height))
    pen = ImageDraw.Draw(image)
    for index, colour in enumerate(CORNERS):
        left, top = index % 2 * (width // 2), index // 2 * (height // 2)
        pen.rectangle((left, top, left + width // 2, top + height // 2), fill=colour)
    return image


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def photo(orientation: int = 1, **options: Any) -> bytes:
    """A JPEG as a phone writes it: turned, with where it was taken, and a comment."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = SECRET
    exif.get_ifd(0x8825)[1] = "N"
    exif.get_ifd(0x8825)[2] = (48.0, 51.0, 30.2)
    turn = TURNED[orientation]
    image = quarters()
    image = image if turn is None else image.transpose(turn)
    return encoded(image, "JPEG", exif=exif, comment=SECRET.encode(), quality=90, **options)


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    """The colours of the four corners, a tenth of the way in."""
    x, y = image.width // 10, image.height // 10
    plain: Any = image.convert("RGB")
    right, bottom = image.width - x - 1, image.height - y - 1
    return [plain.getpixel(at) for at in ((x, y), (right, y), (x, bottom), (right, bottom))]


def near(colours: list[tuple[int, ...]], wanted: Any, by: int = 24) -> bool:
    pairs = zip(colours, wanted, strict=True)
    return all(abs(a - b) <= by for one, other in pairs for a, b in zip(one, other, strict=True))


def swapped_profile() -> bytes:
    """An ICC profile in which red is green: what ignores it shows the wrong colours."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (count,) = struct.unpack_from(">I", data, 128)
    at = {bytes(data[132 + 12 * i : 136 + 12 * i]): 136 + 12 * i for i in range(count)}
    red, green = (bytes(data[at[n] : at[n] + 8]) for n in (b"rXYZ", b"gXYZ"))
    data[at[b"rXYZ"] : at[b"rXYZ"] + 8], data[at[b"gXYZ"] : at[b"gXYZ"] + 8] = green, red
    return bytes(data)


QUICK = {
    "libx264": {"preset": "ultrafast", "threads": "1"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none:pools=none"},
}


@cache
def video(
    muxer: str = "mp4",
    size: str = "640x360",
    seconds: float = 1.0,
    codec: str | None = "libx264",
    sounds: tuple[str, ...] = ("aac",),
    rotation: int = 0,
    mirrored: bool = False,
    aspect: int = 1,
    filters: tuple[str, ...] = (),
    rate: int = 25,
    front: bool = False,
    noise: bool = False,
) -> bytes:
    """A moving test picture with tones; with `noise` in place of the sound's packets."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "out"
        options = {"movflags": "+faststart"} if front else {}
        with av.open(str(path), "w", format=muxer, options=options) as film:
            film.metadata.update(title=SECRET, location="+48.8584+002.2945/")
            streams: list[tuple[Any, Iterator[Any]]] = []
            if codec is not None:
                stream: Any = film.add_stream(codec, rate, QUICK.get(codec, {}))
                shown = played(f"testsrc2=size={size}:rate={rate}:duration={seconds}", *filters)
                first = next(shown)
                stream.width, stream.height = first.width, first.height
                stream.codec_context.sample_aspect_ratio = aspect
                if rotation or mirrored:
                    stream.set_display_rotation(rotation, hflip=mirrored)
                streams.append((stream, chain([first], shown)))
            for sound in sounds:
                stream = film.add_stream(sound, 48_000, {"strict": "-2"})
                streams.append((stream, played(f"sine=sample_rate=48000:duration={seconds}")))
            for stream, frames in streams:
                for frame in chain(frames, [None]):
                    for packet in stream.encode(frame):
                        film.mux(garbled(packet) if noise and stream.type == "audio" else packet)
        return path.read_bytes()


def played(source: str, *filters: str) -> Iterator[Any]:
    """The frames of one of FFmpeg's sources."""
    graph = Graph()
    sink = "buffersink" if "size" in source else "abuffersink"
    parts = [each.partition("=") for each in (source, *filters, sink)]
    graph.link_nodes(*(graph.add(name, args or None) for name, _, args in parts)).configure()
    with suppress(av.EOFError):
        while True:
            yield graph.pull()


def garbled(packet: Any) -> Any:
    """Noise, at this packet's place."""
    noise: Any = av.Packet(Random(packet.pts).randbytes(packet.size))
    noise.stream, noise.time_base = packet.stream, packet.time_base
    noise.pts, noise.dts, noise.duration = packet.pts, packet.dts, packet.duration
    return noise


def png(
    width: int, height: int, rows: bytes = b"", bits: int = 8, colour: int = 2, **chunks: bytes
) -> bytes:
    """A PNG that says it is so large and of such samples, whatever is in its packed rows."""
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n"
    for name, body in {"IHDR": head, **chunks, "IDAT": rows, "IEND": b""}.items():
        named = name.encode() + body
        png += struct.pack(">I", len(body)) + named + struct.pack(">I", zlib.crc32(named))
    return png


def bomb() -> bytes:
    """Few bytes that unfold to 430 MB of pixels."""
    side = 12_000
    packer = zlib.compressobj(1)
    row = b"\0" * (1 + 3 * side)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    return png(side, side, data)


def playlist(*urls: str) -> bytes:
    """An HLS playlist."""
    parts = "".join(f"#EXTINF:1.0,\n{url}\n" for url in urls)
    return f"#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n{parts}#EXT-X-ENDLIST\n".encode()


def patched(video: bytes, box: bytes, offset: int, value: bytes) -> bytes:
    """A video with other bytes at `offset` behind its first `box`."""
    at = video.index(box) + len(box) + offset
    return video[:at] + value + video[at + len(value) :]


def opened(file: IO[bytes] | bytes) -> Image.Image:
    image = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)
    image.load()
    return image


@contextmanager
def spooled(data: bytes) -> Iterator[IO[bytes]]:
    """A real file with these bytes, without a name."""
    with TemporaryFile() as file:
        file.write(data)
        file.flush()
        yield file


@contextmanager
def in_process(
    script: str, function: str, source: IO[bytes], _limits: object, **order: Any
) -> Iterator[tuple[IO[bytes], Any]]:
    """decoders.decoded without a process of its own, which takes longer than most pictures."""
    module: Any = {"draw.py": draw, "transcode.py": transcode}[script]
    with TemporaryFile() as out, catch_warnings(action="ignore"):
        source.seek(0)
        report = json.loads(json.dumps(getattr(module, function)(source, out, **order)))
        out.seek(0)
        yield out, report
