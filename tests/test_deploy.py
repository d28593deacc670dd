"""docs/deploy.md: what is to run is the Procfile's, and its settings start every process."""

from __future__ import annotations

import configparser
import json
import re
from typing import Any

import pytest
import yaml

from app.local.parts import read_procfile
from app.platform.config import ROOT, load

PAGE = (ROOT / "docs" / "deploy.md").read_text()
DEFAULT = re.compile(r"\$\{\w+:-([^}]+)\}")


def blocks(kind: str) -> list[str]:
    """What the page has of a kind of file."""
    found: list[str] = re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.M | re.S)
    assert found
    return found


def procfile() -> dict[str, str]:
    """Its commands, as they are with nothing set."""
    return {name: DEFAULT.sub(r"\1", command) for name, command in read_procfile().items()}


def compose() -> dict[str, Any]:
    [text] = blocks("yaml")
    read: dict[str, Any] = yaml.safe_load(text)
    return read


@pytest.mark.parametrize("where", ["env", "compose"])
def test_its_settings_start_every_process(where: str) -> None:
    if where == "env":
        [text] = blocks("env")
        environ = dict(line.split("=", 1) for line in text.splitlines())
    else:
        environ = compose()["services"]["web"]["environment"]
    settings = load(environ)
    assert settings.use_inngest
    assert settings.inngest_signed
    assert not settings.local
    assert settings.qstash_lacks is None


def test_compose_runs_the_procfile_and_an_inngest_that_signs_with_the_apps_key() -> None:
    services = compose()["services"]
    commands = {name: services[name].get("command") for name in procfile()}
    assert commands == procfile()
    environ = services["web"]["environment"]
    words = services["inngest"]["command"].split()
    given = dict(zip(words[2::2], words[3::2], strict=True))
    assert given["--signing-key"] == environ["INNGEST_SIGNING_KEY"].rpartition("-")[2]
    assert given["--event-key"] == environ["INNGEST_EVENT_KEY"]
    assert given["--sdk-url"] == f"{environ['BACKEND_URL']}/api/inngest"


def test_the_units_run_the_procfile() -> None:
    commands = set()
    for text in blocks("ini"):
        unit = configparser.ConfigParser(interpolation=None, comment_prefixes="#")
        unit.optionxform = str  # type: ignore[method-assign,assignment]
        unit.read_string(text)
        if "Service" in unit:
            program = unit["Service"]["ExecStart"].removeprefix("/srv/switchyard/.venv/bin/")
            commands.add(program.replace("127.0.0.1", "0.0.0.0"))
    assert commands == {procfile()["web"], procfile()["worker"]}


def test_what_vercel_is_told_is_there() -> None:
    [text] = blocks("json")
    told = json.loads(text)
    assert all((ROOT / name).is_file() for name in told["functions"])
    assert (ROOT / told["installCommand"].split()[-1]).is_file()
