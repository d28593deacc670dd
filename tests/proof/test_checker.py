"""The checker of `make chaos` finds what is broken, and nothing in what is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.proof import variants
from tests.proof.checker import EFFECTS, check
from tests.support.forks import forked
from tests.support.sides import ROOT

FINDS = {
    "sound": set[str](),
    "no_fence": {"doubled"},
    "no_unique_key": {"doubled"},
    "acknowledged_before_commit": {"lost"},
    "a_key_per_try": {"doubled"},
    "unkeyed_clocks": {"doubled"},
}


@pytest.mark.process
@pytest.mark.parametrize("name", [one.__name__ for one in variants.VARIANTS])
def test_what_is_broken_is_caught(name: str, tmp_path: Path) -> None:
    environ = {**os.environ, "CHAOS_EFFECTS": str(tmp_path / EFFECTS)}
    done = forked(["-m", "tests.proof.variants", name, str(tmp_path)], environ)
    assert done.returncode == 0, done.stderr
    verdict = check(f"sqlite:///{tmp_path / 'world.db'}", tmp_path)
    assert {what for what in ("lost", "doubled") if getattr(verdict, what)} == FINDS[name], verdict
    assert not verdict.unfinished


@pytest.mark.process
def test_it_shares_no_code_with_the_product() -> None:
    code = "import tests.proof.checker, sys; print({name.partition('.')[0] for name in sys.modules}"
    code += " & {'app', 'queues', 'workflows', 'flags'})"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=-1, text=True)
    assert out.stdout == "set()\n"
