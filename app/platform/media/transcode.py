"""Inspects a video, and makes its poster and its MP4, with the FFmpeg in PyAV's wheel.

This script needs only PyAV and Pillow. confine.py calls its functions.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from heapq import merge
from itertools import chain
from typing import IO, Any

import av
from av.container import InputContainer
from av.filter import Graph
from av.stream import Disposition

MAX_SECONDS = 600
MAX_PIXELS = 4096 * 2304
"""The limit for one picture."""
MAX_LOSS = 0.1
"""The share of packets that may be broken, and of the claimed length that may be missing."""
CODECS = (
    *("h264", "hevc", "mpeg4", "vp8", "vp9", "libdav1d", "prores", "mjpeg"),
    *("aac", "mp3float", "mp3", "opus", "vorbis", "ac3", "eac3", "alac", "flac"),
    *("pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_f32le"),
)
"""The codecs that cameras, phones, browsers and editors use. FFmpeg could read 500 more."""
SIDEWAYS = "transpose=cclock_flip"


class Soundless(Exception):
    """The sound cannot be decoded."""


def look(source: IO[bytes], out: IO[bytes], decoder: str) -> dict[str, Any]:
    """The size of the video's pictures, upright and with square pixels."""
    with _opened(source, decoder) as container:
        stream = _picture(container)
        frame = next(_frames(container, stream))
        _check_length((container.duration or 0) / av.time_base)
        width = round(frame.width * (stream.sample_aspect_ratio or 1))
        size = [min(65_535, max(1, width)), frame.height]
        return {"size": size[::-1] if SIDEWAYS in _turn(frame) else size}


def poster(source: IO[bytes], out: IO[bytes], decoder: str, size: list[int]) -> None:
    """The most typical picture in the video's first five seconds, as PNG."""
    with _opened(source, decoder) as container:
        ends = ["fps=4:round=up"], ["thumbnail=20", "format=rgb24"]
        frame = next(_pictures(container, _picture(container), size, *ends))
        frame.to_image().save(out, "PNG", compress_level=1)


def mp4(
    source: IO[bytes], out: IO[bytes], decoder: str, size: list[int], options: dict[str, str]
) -> dict[str, Any]:
    """The video as H.264 and AAC, with these options for x264, but without undecodable sound. It
    plays before it is fully loaded."""
    try:
        return _mp4(source, out, decoder, size, options, True)
    except Soundless:
        source.seek(0)
        return _mp4(source, out, decoder, size, options, False)


def _mp4(
    source: IO[bytes], out: IO[bytes], decoder: str, size: list[int], options: Any, with_sound: bool
) -> dict[str, Any]:
    # By name: faststart rereads its output, and sound and pictures are read side by side.
    beside, name = (f"/proc/self/fd/{file.fileno()}" for file in (source, out))
    exact, front = {"flags": "+bitexact"}, {"movflags": "+faststart", "fflags": "+bitexact"}
    with (
        _opened(source, decoder) as container,
        open(beside, "rb") as file,
        _opened(file, decoder) as sounds,
        av.open(name, "w", format="mp4", container_options=front) as film,
    ):
        picture = _picture(container)
        pictures = _pictures(container, picture, size, [], ["format=yuv420p"])
        first = next(pictures)
        video = film.add_stream("libx264", picture.guessed_rate or 25, {**options, **exact})
        video.width, video.height = size
        video.codec_context.time_base = first.time_base
        for colour in ("color_range", "colorspace", "color_primaries", "color_trc"):
            setattr(video.codec_context, colour, getattr(first, colour))
        encoders: dict[type, Any] = {av.VideoFrame: video}
        frames: list[Iterator[Any]] = [chain([first], pictures)]
        voice = next((one for one in sounds.streams.audio if with_sound and _is_listed(one)), None)
        if voice is not None:
            encoders[av.AudioFrame] = film.add_stream("aac", 48_000, exact, bit_rate=128_000)
            frames.append(_sounds(sounds, voice))
        last, seconds = dict.fromkeys(encoders, -1), 0.0
        for frame in merge(*frames, key=lambda frame: frame.time):
            kind = type(frame)
            if frame.pts > last[kind]:
                last[kind] = frame.pts
                seconds = max(seconds, frame.time + float(frame.duration * frame.time_base))
                _check_length(seconds)
                film.mux(encoders[kind].encode(frame))
        for encoder in encoders.values():
            film.mux(encoder.encode(None))
        claimed = (container.duration or 0) / av.time_base
        if seconds < claimed * (1 - MAX_LOSS) - 1:
            sys.exit(f"it is cut off after {seconds:.1f} of {claimed:.1f} s")
        sound = "kept" if voice is not None else "dropped" if sounds.streams.audio else "none"
    return {"width": size[0], "height": size[1], "seconds": round(seconds, 3), "sound": sound}


def _opened(source: IO[bytes], decoder: str) -> InputContainer:
    # Without protocols it can open no other file and no address.
    options = {"protocol_whitelist": "none", "codec_whitelist": ",".join(CODECS)}
    return av.open(source, "r", decoder, container_options={"max_streams": "32", **options})


def _is_listed(stream: Any) -> bool:
    return stream.codec_context is not None and stream.codec_context.codec.name in CODECS


def _picture(container: InputContainer) -> av.VideoStream:
    for stream in container.streams.video:
        if _is_listed(stream) and not stream.disposition & Disposition.attached_pic:
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            stream.thread_type, stream.thread_count = "AUTO", 2
            return stream
    sys.exit("it has no picture that can be decoded")


def _check_length(seconds: float) -> None:
    if seconds > MAX_SECONDS:
        sys.exit(f"it is {seconds:,.0f} s long; {MAX_SECONDS} s are the most")


def _frames(container: InputContainer, stream: Any) -> Iterator[Any]:
    """The frames of a stream, timed from the beginning of the video."""
    start = round(Fraction(container.start_time or 0, av.time_base) / stream.time_base)
    packets = broken = frames = 0
    with suppress(av.InvalidDataError):  # it is cut off; the length decides whether enough is left
        for packet in container.demux(stream):
            packets += 1
            try:
                decoded: list[Any] = packet.decode()
            except av.FFmpegError:
                broken += 1
                continue
            for frame in decoded:
                frame.pts = frame.dts if frame.pts is None else frame.pts
                if frame.pts is not None:
                    frame.pts, frame.time_base = frame.pts - start, stream.time_base
                    frames += 1
                    yield frame
    if not frames or broken > MAX_LOSS * packets:
        raise ValueError(f"{broken} of {packets} packets of {stream.type} are broken")


def _pictures(
    container: InputContainer, stream: Any, size: list[int], before: list[str], after: list[str]
) -> Iterator[Any]:
    """The video's pictures after these filters, upright and in this size."""
    frames = _frames(container, stream)
    first = next(frames)
    shape = (first.width, first.height, first.format.name)
    turn, graph = _turn(first), Graph()
    width, height = size[::-1] if SIDEWAYS in turn else size
    colours = f"colorspace={int(first.colorspace)}:range={int(first.color_range)}"
    source = f"buffer=video_size={first.width}x{first.height}:pix_fmt={first.format.name}"
    source += f":time_base={first.time_base}:{colours}"
    middle = [*before, f"scale={width}:{height}", *turn, "setsar=1", *after]
    parts = [each.partition("=") for each in (source, *middle, "buffersink")]
    graph.threads = 1
    graph.link_nodes(*(graph.add(name, args or None) for name, _, args in parts))
    graph.configure()
    for frame in chain([first], frames):
        alike = (frame.width, frame.height, frame.format.name) == shape
        yield from _through(graph, frame if alike else frame.reformat(*shape))
    yield from _through(graph, None)


def _through(graph: Graph, frame: Any) -> Iterator[Any]:
    graph.vpush(frame)
    with suppress(av.BlockingIOError, av.EOFError):
        while True:
            shown = graph.vpull()
            shown.pict_type = 0  # lets the encoder choose
            yield shown


def _turn(frame: Any) -> list[str]:
    """The filters that turn a frame upright, by its display matrix."""
    if "DISPLAYMATRIX" not in frame.side_data:
        return []
    matrix = bytes(frame.side_data["DISPLAYMATRIX"])
    across, swapped, _, back, down = struct.unpack_from("=5i", matrix)
    sideways = abs(swapped) > abs(across)
    if sideways:
        across, down = back, swapped
    return [*[SIDEWAYS] * sideways, *["hflip"] * (across < 0), *["vflip"] * (down < 0)]


def _sounds(container: InputContainer, stream: Any) -> Iterator[Any]:
    """The sound in the MP4's format, with gaps filled, even where its own format changes."""
    resampler, shape, filled = av.AudioResampler(), None, {"async": "1"}
    try:
        for frame in _frames(container, stream):
            now = (frame.format.name, frame.layout.name, frame.rate)
            if now != shape:
                yield from resampler.resample(None)
                resampler, shape = av.AudioResampler("fltp", "stereo", 48_000, 1024, filled), now
            yield from resampler.resample(frame)
        for frame in resampler.resample(None):
            frame.duration = frame.samples  # the last, shorter one has a full frame's duration
            yield frame
    except (av.FFmpegError, ValueError) as failure:
        raise Soundless from failure
