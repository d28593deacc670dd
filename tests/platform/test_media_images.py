"""Every common kind of image comes out upright, in sRGB, small, and with nothing else in it."""

from __future__ import annotations

import struct
import zlib

import pytest
from PIL import Image, ImageStat

from app.platform.media import decoders, draw
from app.platform.media.kinds import Kind, Picture, Refused, sort_of
from tests.support.footage import (
    CORNERS,
    SECRET,
    TURNED,
    corners,
    encoded,
    in_process,
    near,
    opened,
    photo,
    png,
    quarters,
    spooled,
    swapped_profile,
)

SMALL = Picture("small", 300)
ALPHA = Image.linear_gradient("L").resize((600, 400))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "decoded", in_process)


def drawn(data: bytes, variant: Picture = SMALL) -> tuple[Image.Image, bytes, list[int]]:
    with (
        spooled(data) as file,
        decoders.webp(file, sort_of(file)[1], variant) as (still, report),
    ):
        webp = still.read()
    image = opened(webp)
    assert (image.format, image.size) == ("WEBP", (report["width"], report["height"]))
    return image, webp, report["source"]


def with_alpha() -> Image.Image:
    image = quarters().convert("RGBA")
    image.putalpha(ALPHA)
    return image


@pytest.mark.parametrize("orientation", TURNED)
def test_a_photo_is_set_upright_and_says_nothing(orientation: int) -> None:
    image, webp, source = drawn(photo(orientation))
    assert image.size == (300, 200)
    assert source == [600, 400]
    assert near(corners(image), CORNERS)
    assert SECRET.encode()[:8] not in webp
    assert {"exif", "icc_profile", "xmp"}.isdisjoint(image.info)
    assert not any(chunk in webp for chunk in (b"EXIF", b"XMP ", b"ICCP"))


BLACK = [Image.new("RGB", (600, 400))] * 3
GOOD: dict[str, tuple[str, bytes]] = {
    "jpeg": ("JPEG", encoded(quarters(), "JPEG", quality=92)),
    "progressive": ("JPEG", encoded(quarters(), "JPEG", quality=92, progressive=True)),
    "cmyk": ("JPEG", encoded(quarters().convert("CMYK"), "JPEG", quality=95)),
    "png": ("PNG", encoded(quarters(), "PNG")),
    "webp": ("WEBP", encoded(quarters(), "WEBP", quality=90)),
    "animated webp": ("WEBP", encoded(quarters(), "WEBP", save_all=True, append_images=BLACK)),
    "gif": ("GIF", encoded(quarters(), "GIF")),
    "animated gif": ("GIF", encoded(quarters(), "GIF", save_all=True, append_images=BLACK)),
    "avif": ("AVIF", encoded(quarters(), "AVIF", quality=80)),
    "tiff": ("TIFF", encoded(quarters(), "TIFF", compression="tiff_lzw")),
    "big tiff": ("TIFF", encoded(quarters(), "TIFF", big_tiff=True)),
    "lab": ("TIFF", encoded(quarters().convert("LAB"), "TIFF")),
    "bmp": ("BMP", encoded(quarters(), "BMP")),
}


@pytest.mark.parametrize("name", GOOD)
def test_the_common_formats(name: str) -> None:
    decoder, data = GOOD[name]
    with spooled(data) as file:
        assert sort_of(file) == (Kind.IMAGE, decoder)
    image, _, source = drawn(data)
    assert (image.size, source) == ((300, 200), [600, 400])
    assert near(corners(image), corners(quarters()), by=40), corners(image)


@pytest.mark.parametrize("major", [b"avis", b"mif1", b"msf1", b"miaf", b"MA1B"])
def test_an_avif_is_known_by_any_of_its_brands(major: bytes) -> None:
    """The compatible brands have avif itself, or only one of its profiles."""
    _, data = GOOD["avif"]
    for brands in (data[12:32], data[12:32].replace(b"avif", b"MA1B")):
        image, _, _ = drawn(data[:8] + major + brands + data[32:])
        assert near(corners(image), CORNERS, by=40)


@pytest.mark.parametrize("brands", [b"heic....mif1", b"mif1....heic", b"1pic....mif1miaf"])
def test_heic_is_refused_by_name(brands: bytes) -> None:
    head = struct.pack(">I4s", 8 + len(brands), b"ftyp") + brands
    with spooled(head + bytes(99)) as file, pytest.raises(Refused, match="HEIC"):
        sort_of(file)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "AVIF", "GIF", "TIFF", "palette"])
def test_what_is_seen_through_stays_so(kind: str) -> None:
    image = with_alpha()
    if kind == "GIF":  # it knows only all or nothing
        image.putalpha(ALPHA.point(lambda value: 255 if value > 127 else 0))
    palette = kind == "palette"
    seen, _, _ = drawn(
        encoded(image.quantize(64) if palette else image, "PNG" if palette else kind)
    )
    assert seen.mode == "RGBA"
    top, bottom = (seen.crop((0, y, 300, y + 4)).getchannel("A") for y in (0, 196))
    assert ImageStat.Stat(top).mean[0] < 40
    assert ImageStat.Stat(bottom).mean[0] > 200


def in_mode(mode: str) -> Image.Image:
    """The quarters in this mode."""
    base = {"PA": "RGBA", "RGBa": "RGBA", "La": "LA", "I": "L", "F": "L"}.get(mode, "RGB")
    if mode.startswith("I;16"):
        return quarters().convert("I").point(lambda value: value * 257).convert(mode)
    return quarters().convert(base).convert(mode)


@pytest.mark.parametrize("mode", Image.MODES)
def test_every_mode_looks_the_same(mode: str) -> None:
    if mode in ("I", "F"):
        with pytest.raises(ValueError, match=f"mode {mode}"):
            draw.shown(in_mode(mode), 300, False)
        return
    image, _ = draw.shown(in_mode(mode), 300, False)
    assert (image.mode, image.size) == ("RGB", (300, 200))
    if mode == "1":  # dithered: as light as it was, on the whole
        light, wanted = (ImageStat.Stat(one.convert("L")).mean for one in (image, quarters()))
        assert light == pytest.approx(wanted, abs=4)
        return
    grey = mode[0] in "LI" and mode != "LAB"
    reference = quarters().convert("L" if grey else "RGB")
    assert near(corners(image), corners(reference), by=40), corners(image)


def levels(bits: int) -> tuple[int, int, int]:
    """Dark, light and white."""
    white = 2**bits - 1
    return white // 3, white - white // 16, white


def halves(colour: int, bits: int, *, key: bool) -> bytes:
    """A PNG whose left half is dark and whose right half is light, or with `key` transparent."""
    dark, light, white = levels(bits)
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    alpha = [white] if colour in (4, 6) else []
    row = "0" * 8
    for level in (dark, light):
        samples = [level] * (channels - len(alpha)) + alpha
        row += "".join(f"{sample:0{bits}b}" for sample in samples) * 16
    chunks = {}
    if colour == 3:
        chunks["PLTE"] = b"".join(bytes([255 * n // white] * 3) for n in range(white + 1))
    if key:
        none_of_it = b"\xff" * light + b"\0", struct.pack(">H", light) * channels
        chunks["tRNS"] = none_of_it[colour != 3]
    packed = int(row, 2).to_bytes(len(row) // 8, "big")
    return png(32, 9, zlib.compress(packed * 9), bits, colour, **chunks)


@pytest.mark.parametrize(
    ("colour", "bits", "key"),
    [
        *((0, bits, key) for bits in (1, 2, 4, 8, 16) for key in (False, True)),
        *((3, bits, key) for bits in (1, 2, 4, 8) for key in (False, True)),
        *((2, bits, key) for bits in (8, 16) for key in (False, True)),
        *((colour, bits, False) for colour in (4, 6) for bits in (8, 16)),
    ],
)
def test_every_kind_of_png_looks_the_same(colour: int, bits: int, key: bool) -> None:
    image, _, _ = drawn(halves(colour, bits, key=key))
    dark, light, white = levels(bits)
    left, right = (image.convert("RGBA").getpixel((x, 4)) for x in (4, 27))
    assert isinstance(right, tuple)
    assert left == pytest.approx((*[255 * dark / white] * 3, 255), abs=4)
    assert (
        right[3] == 0 if key else right == pytest.approx((*[255 * light / white] * 3, 255), abs=4)
    )


@pytest.mark.parametrize(
    ("bits", "inverted"), [*((bits, False) for bits in (2, 4, 8, 12, 16)), (8, True), (16, True)]
)
def test_every_kind_of_grey_tiff_looks_the_same(bits: int, inverted: bool) -> None:
    dark, light, white = levels(bits)
    if bits == 16:
        row = struct.pack("<32H", *[dark] * 16, *[light] * 16)
    else:
        samples = "".join(f"{level:0{bits}b}" * 16 for level in (dark, light))
        row = int(samples, 2).to_bytes(len(samples) // 8, "big")
    tags = {256: 32, 257: 9, 258: bits, 259: 1, 262: int(not inverted), 273: 122, 277: 1}
    tags |= {278: 9, 279: len(row) * 9}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = struct.pack("<4sIH", b"II*\0", 8, len(tags)) + entries + bytes(4)
    image, _, _ = drawn(head + row * 9)
    for x, level in ((4, dark), (27, light)):
        seen = 255 * (white - level if inverted else level) / white
        assert image.getpixel((x, 4)) == pytest.approx([seen] * 3, abs=4)


def test_colours_are_brought_to_srgb() -> None:
    profile = swapped_profile()
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        image, _, _ = drawn(encoded(quarters(), kind, icc_profile=profile))
        red, green, *_ = corners(image)
        assert red[1] > red[0] + 50, kind
        assert green[0] > green[1] + 50, kind
    for broken in (b"no profile", profile[:200], bytes(len(profile))):
        image, _, _ = drawn(encoded(quarters(), "JPEG", icc_profile=broken))
        assert near(corners(image), CORNERS)
