"""A decoder has limits of memory, time and space, and gets nothing of ours."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from app.platform.media import decoders
from app.platform.media.decoders import DecoderLost, Limits, decoded
from app.platform.media.kinds import VARIANTS, Film, Picture, Refused, sort_of
from tests.support.footage import encoded, quarters, spooled, video
from tests.support.sides import ROOT
from tests.support.waiting import PATIENCE_SECONDS, until

ROOMY = Limits(cpu_seconds=20, out_bytes=1_000_000, wall_seconds=30)


def confined(folder: Path, body: str, limits: Limits) -> tuple[bytes, Any]:
    script = folder / "script.py"
    script.write_text(f"import os, sys, time\ndef go(source, out):\n    {body}\n")
    with spooled(b"bytes") as source, decoded(str(script), "go", source, limits) as (out, said):
        return out.read(), said


@pytest.mark.parametrize(
    ("body", "limits", "error", "match"),
    [
        ("bytearray(600 << 20)", ROOMY, Refused, "more memory than"),
        ("while True: pass", Limits(1, 1, 30), Refused, "more than 1 s of computing"),
        ("time.sleep(30)", Limits(9, 1, 1), DecoderLost, "not done after 1 s"),
        ("os.abort()", ROOMY, Refused, "SIGABRT"),
        ("os.kill(os.getpid(), 11)", ROOMY, Refused, "SIGSEGV"),
        ("os.kill(os.getpid(), 9)", ROOMY, DecoderLost, "killed"),
        ("out.write(bytes(2_000_000))", ROOMY, Refused, "File too large"),
        ("raise OSError(28, 'No space left on device')", ROOMY, DecoderLost, "No space left"),
        ("import nothing_of_this_name", ROOMY, DecoderLost, "No module"),
        ("sys.exit('bad')", ROOMY, Refused, "^bad$"),
        ("raise ValueError('bad')", ROOMY, Refused, "cannot be decoded: ValueError: bad$"),
    ],
)
def test_whose_fault_an_end_is(
    tmp_path: Path, body: str, limits: Limits, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        confined(tmp_path, body, limits)


def test_a_decoder_sees_nothing_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRIPE_API_KEY", "sk_live_x")
    look = "out.write(source.read()); return [sorted(os.environ), os.listdir('/proc/self/fd')]"
    out, (variables, files) = confined(tmp_path, look, ROOMY)
    assert out == b"bytes"
    assert "STRIPE_API_KEY" not in variables
    assert len(files) == 4  # its three, and the one that lists them


def test_a_decoder_dies_with_its_parent(tmp_path: Path) -> None:
    script, begun = tmp_path / "script.py", tmp_path / "begun"
    script.write_text(
        "import os, pathlib, time\n"
        "def go(source, out):\n"
        f"    pathlib.Path({str(begun)!r}).write_text(str(os.getpid()))\n"
        "    time.sleep(600)\n"
    )
    code = (
        "from app.platform.media.decoders import Limits, decoded\n"
        f"with decoded({str(script)!r}, 'go', open('README.md', 'rb'), Limits(9, 99, 60)): 0"
    )
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    parent = psutil.Popen([sys.executable, "-c", code], cwd=ROOT, env=env)
    until(lambda: begun.exists() and begun.read_text(), "it was not started")
    child = psutil.Process(int(begun.read_text()))
    parent.kill()
    parent.wait()
    child.wait(PATIENCE_SECONDS)
    assert set(tmp_path.iterdir()) == {script, begun}


WIDE = Image.linear_gradient("L").resize((8_000, 6_000))
LARGE: dict[str, Callable[[], bytes]] = {
    "alpha": lambda: encoded(quarters(8_000, 6_000).convert("RGBA"), "PNG", compress_level=1),
    "grey": lambda: encoded(WIDE.convert("I;16"), "PNG", compress_level=1, transparency=0),
    "film": lambda: video(size="3840x2160", seconds=1.0),
}


@pytest.mark.minutes
@pytest.mark.parametrize("name", LARGE)
def test_the_largest_files_fit(name: str) -> None:
    with spooled(LARGE[name]()) as file:
        kind, decoder = sort_of(file)
        variant = VARIANTS[kind][-1]
        if isinstance(variant, Picture):
            with decoders.webp(file, decoder, variant) as (_, report):
                assert report["source"] == [8_000, 6_000]
            return
        assert isinstance(variant, Film)
        size = decoders.look(file, decoder)
        assert size == [3_840, 2_160]
        with decoders.mp4(file, decoder, size, variant) as (_, report):
            assert report["width"] == 1_280
