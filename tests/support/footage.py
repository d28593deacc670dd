"""Images and videos, made on the spot: good ones, and ones made to do harm."""

from __future__ import annotations

import io
import struct
import subprocess
import zipfile
import zlib
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import imageio_ffmpeg
from PIL import Image, ImageCms, ImageDraw

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
    draw = ImageDraw.Draw(image)
    for index, colour in enumerate(CORNERS):
        left, top = index % 2 * (width // 2), index // 2 * (height // 2)
        draw.rectangle((left, top, left + width // 2, top + height // 2), fill=colour)
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
    at = [(x, y), (-x - 1, y), (x, -y - 1), (-x - 1, -y - 1)]
    plain = image.convert("RGB")
    return [
        tuple(plain.getpixel((a % image.width, b % image.height)))  # type: ignore[arg-type]
        for a, b in at
    ]


def near(found: list[tuple[int, ...]], wanted: tuple[tuple[int, ...], ...], by: int = 24) -> bool:
    return all(
        abs(a - b) <= by
        for f, w in zip(found, wanted, strict=True)
        for a, b in zip(f, w, strict=True)
    )


def swapped_profile() -> bytes:
    """An ICC profile in which red is green: what ignores it shows the wrong colours."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    (count,) = struct.unpack_from(">I", data, 128)
    at = {bytes(data[132 + 12 * i : 136 + 12 * i]): 136 + 12 * i for i in range(count)}
    red, green = (bytes(data[at[n] : at[n] + 8]) for n in (b"rXYZ", b"gXYZ"))
    data[at[b"rXYZ"] : at[b"rXYZ"] + 8], data[at[b"gXYZ"] : at[b"gXYZ"] + 8] = green, red
    return bytes(data)


def ffmpeg(*arguments: str, given: bytes | None = None) -> bytes:
    """What the wheel's ffmpeg makes with these arguments; the output is added to them."""
    with TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        subprocess.run(
            [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *arguments, str(out)],
            input=given,
            check=True,
        )
        return out.read_bytes()


@cache
def video(
    muxer: str = "mp4",
    size: str = "640x360",
    seconds: float = 1.0,
    codec: str = "libx264",
    sound: str | None = "aac",
    rotation: int = 0,
    filters: str = "null",
) -> bytes:
    """A test picture with a tone."""
    tone = ("-f", "lavfi", "-i", f"sine=duration={seconds}") if sound else ()
    made = ffmpeg(
        *("-f", "lavfi", "-i", f"testsrc2=size={size}:rate=25:duration={seconds}", *tone),
        *("-vf", filters, "-c:v", codec, "-pix_fmt", "yuv420p", "-threads", "1"),
        *(("-preset", "ultrafast") if codec == "libx264" else ()),
        *(("-c:a", sound) if sound else ()),
        *("-metadata", f"title={SECRET}", "-metadata", "location=+48.8584+002.2945/"),
        *("-f", muxer),
    )
    if not rotation:
        return made
    with TemporaryDirectory() as folder:
        file = Path(folder) / "in"
        file.write_bytes(made)
        return ffmpeg(
            "-display_rotation", str(rotation), "-i", str(file), "-c", "copy", "-f", muxer
        )


def png(
    width: int,
    height: int,
    rows: bytes = b"",
    bits: int = 8,
    colour: int = 2,
    **chunks: bytes,
) -> bytes:
    """A PNG that says it is so large and of such samples, whatever is in its packed rows."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        )

    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    more = b"".join(chunk(name.encode(), body) for name, body in chunks.items())
    body = chunk(b"IHDR", head) + more + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def bomb() -> bytes:
    """Few bytes that unfold to 430 MB of pixels."""
    side = 12_000
    packer = zlib.compressobj(1)
    row = b"\0" * (1 + 3 * side)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    return png(side, side, data)


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.html", "<script>alert(1)</script>")
    return out.getvalue()


def playlist(*urls: str) -> bytes:
    """An HLS playlist."""
    parts = "".join(f"#EXTINF:1.0,\n{url}\n" for url in urls)
    return f"#EXTM3U\n#EXT-X-MEDIA-SEQUENCE:0\n{parts}#EXT-X-ENDLIST\n".encode()


def patched(made: bytes, box: bytes, offset: int, value: bytes) -> bytes:
    """An MP4 with other bytes at `offset` behind the name of its first `box`."""
    at = made.index(box) + len(box) + offset
    return made[:at] + value + made[at + len(value) :]


def opened(file: IO[bytes] | bytes) -> Image.Image:
    image = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)
    image.load()
    return image
