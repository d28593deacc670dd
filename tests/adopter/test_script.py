"""An app of another shape, in an environment with nothing but the wheel: RQ only, no factory, no
database of its own, and a package called `app`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.adopter.site import Site, inngest, site, wheel
from tests.support.environments import empty, install, uv
from tests.support.pages import sections
from tests.support.waiting import until

SCRIPT = Path(__file__).parent / "script"
MOST_BYTES = 130_000_000
PAGE = sections("adopt.md")

pytestmark = [pytest.mark.process, pytest.mark.minutes, pytest.mark.timeout(900)]


def greeted(script: Site, name: str, backend: str) -> None:
    """A greeting is asked for over HTTP and done on that side, once."""
    task = script.call(f"/greet/{name}", {})["task"]
    wanted = f"hello {name}"
    until(lambda: script.call(f"/tasks/{task}")["result"] == wanted, script.logs, every_seconds=0.2)
    run = script.answer(f"flask switchyard runs show {task}")
    assert (run["backend"], run["status"], run["attempt"]) == (backend, "succeeded", 1)


def test_twenty_lines_in_an_empty_environment(tmp_path: Path, redis_url: str) -> None:
    python = empty("script")
    uv("pip", "uninstall", "--quiet", "--python", str(python), "switchyard", "inngest")
    built = wheel(tmp_path / "dist")
    install(python, str(built))
    within = python.parents[1] / "lib"
    size = sum(file.lstat().st_size for file in within.rglob("*") if file.is_file())
    assert size < MOST_BYTES
    assert len((SCRIPT / "app" / "__init__.py").read_text().splitlines()) <= 20

    environ = {"DATABASE_URL": f"sqlite:///{tmp_path / 'ledger.db'}", "REDIS_URL": redis_url}
    with site(SCRIPT, tmp_path, python, **environ) as script:
        refused = script.run("USE_INNGEST=true flask switchyard db upgrade", ok=False)
        assert "pip install 'switchyard[inngest]'" in refused.stderr
        install(python, f"switchyard[inngest] @ file://{built}")
        script.run("flask switchyard db upgrade")
        with inngest(script.port) as url:
            script.environ["INNGEST_DEV"] = url
            for block in PAGE["Start the processes"]:
                script.block(block)
            script.until_up("/switchyard/healthz")
            greeted(script, "ada", "rq")
            script.run('flask switchyard cutover stage greet live --why "there"')
            greeted(script, "grace", "inngest")
            script.run('flask switchyard cutover rollback greet --why "and back"')
            greeted(script, "alan", "rq")
