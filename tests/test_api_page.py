"""docs/api.md: its calls, and what answers them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from app.platform.config import load
from app.switchyard.dispatch import dispatch
from app.switchyard.runs.memory import MemoryBackend
from app.switchyard.runtime import EXTENSION
from tests.support.pages import blocks
from tests.support.serving import serve_in_thread
from tests.support.sides import build, environment, fresh

TOKEN = "0123456789abcdef-admin"


def texts(kind: str) -> list[str]:
    return [block.text for block in blocks("api.md", kind)]


@pytest.mark.process
def test_the_calls_of_the_api_s_page(tmp_path: Path, redis_url: str) -> None:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    environ = environment(url, redis_url, ADMIN_TOKEN=TOKEN)
    del environ["SWITCHYARD_JOBS"]
    fresh(environ, [MemoryBackend("rq")]).db.dispose()
    app = build(load(environ))
    with app.app_context():
        dispatch("send-email", {"to": "a@b.c", "template": "welcome", "data": {"name": "A"}})
    first, *more = texts("sh")
    answers: list[Any] = []
    with serve_in_thread(app) as server:
        for block in [first, *(first.partition("\n\n")[0] + "\n" + block for block in more)]:
            shell = f"set -e\n{block}".replace("http://localhost:3005", server)
            env = {**os.environ, "ADMIN_TOKEN": TOKEN}
            done = subprocess.run(["bash", "-c", shell], env=env, capture_output=True, text=True)
            assert done.returncode == 0, (block, done.stdout, done.stderr)
            answers += [json.loads(line) for line in done.stdout.splitlines()]
        wrong = '{"stage": "away", "percentage": 10, "why": "x"}'
        setup = first.partition("\n\n")[0].replace("http://localhost:3005", server)
        call = f"{setup}\napi $API/jobs/send-email/stage -d '{wrong}' || true"
        refused = subprocess.run(["bash", "-c", call], env=env, capture_output=True, text=True)
    lines = [line for block in texts("sh") for line in block.splitlines()]
    assert len(answers) == sum(line.startswith("api ") for line in lines)
    moved, batch, problem = map(json.loads, texts("json"))
    assert set(answers[-2]) == set(moved)
    assert set(answers[-1]) == set(batch)
    assert json.loads(refused.stdout) == problem
    app.extensions[EXTENSION].db.dispose()
