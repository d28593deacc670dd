"""README, CONTRIBUTING and docs/: each command is one that the app has, and each link, file and
target is there; what is made anew by a command is up to date. That all is run: test_snippets."""

from __future__ import annotations

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import click
import pytest
from flask import Flask
from flask.cli import ScriptInfo
from sqlalchemy import create_engine, select

from app import create_app
from app.platform import JOBS
from app.platform.config import ROOT, load
from app.switchyard import maintenance
from app.switchyard.commands.later import Later
from app.switchyard.job import load as catalogue
from app.switchyard.runs.models import RunRow
from tests.bench import __main__ as bench
from tests.support import configuration
from tests.support.forks import forked
from tests.support.pages import PAGES, blocks
from tests.support.sides import environment
from tests.support.tables import create_all

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
README = (ROOT / "README.md").read_text()
COMMAND = re.compile(r"\bflask (?:--app app|switchyard) ([a-z][^`\n]*)")
SHORT = re.compile(r"`((?:cutover|db|earnings|jobs|payouts|qstash|runs) [a-z][^`\n]*)`")
STANDS_FOR = re.compile(r"[|…;\[]|(?<!\$)\b[A-Z]{2,}\b")
FILE = re.compile(r"\btests/[\w/]+\b(?:\.py)?|\btest_\w+\.py")
LINK = re.compile(r"\]\(([^)\s]+)\)")
TARGET = re.compile(r"(?:^|`|&& )make ([a-z]+)", re.M)


def commands(text: str) -> set[str]:
    """The commands of the app that a page gives, without what stands for something else."""
    text = re.sub(r"^```yaml\n.*?^```$", "", text, flags=re.M | re.S)
    found = (line.split(" #")[0].strip() for line in COMMAND.findall(text) + SHORT.findall(text))
    return {line for line in found if not STANDS_FOR.search(line)}


def is_whole(app: Flask, line: str) -> bool:
    """Whether a command can be run as it stands; else only its name is given."""
    at: click.Command = app.cli
    words = shlex.split(line)
    context = click.Context(at, obj=ScriptInfo(create_app=lambda: app))
    while isinstance(at, click.Group) and words:
        name = words.pop(0)
        found = at.commands.get(name)
        assert found is not None, line
        at = found.load() if isinstance(found, Later) else found
        context = click.Context(at, context, name)
    try:
        at.make_context(at.name, words, context.parent, resilient_parsing=False)
    except click.MissingParameter:
        assert not words, line
        return False
    except click.exceptions.Exit:
        assert "--help" in line
    return True


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as a browser of the repository makes them."""
    heads = re.findall(r"^#+ (.*)$", BLOCK.sub("", page.read_text()), re.M)
    plain = (re.sub(r"[^\w\- ]", "", head.lower()) for head in heads)
    given = re.findall(r'<a (?:id|name)="([^"]+)"', page.read_text())
    return {head.replace(" ", "-") for head in plain} | set(given)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_is_one_of_the_app(page: Path) -> None:
    app = create_app(load({"DATABASE_URL": "sqlite://", "REDIS_URL": "redis://127.0.0.1:1/0"}))
    text = page.read_text()
    for line in commands(text):
        is_whole(app, line)
    makes = (ROOT / "Makefile").read_text()
    assert all(f"\n{target}:" in makes for target in TARGET.findall(text))
    tests = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    for name in FILE.findall(text):
        assert name in tests or (ROOT / name).exists(), name
    assert all(find_spec(module) for module in re.findall(r"python -m ([\w.]+)", text))
    assert set(re.findall(r"--only (\w+)", text)) <= set(bench.ROWS)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        if re.match(r"https?://|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_readmes_job_for_an_app_of_ones_own_is_dispatched(tmp_path: Path) -> None:
    code = blocks("README.md", "python")[-1].text
    url = f"sqlite:///{tmp_path / 'test.db'}"
    engine = create_engine(url)
    create_all(engine)
    environ = environment(url, "redis://127.0.0.1:1/0", SWITCHYARD_JOBS="", PYTHONPATH=str(ROOT))
    named = "import sys, app.switchyard; sys.modules['switchyard'] = sys.modules['app.switchyard']"
    done = forked(["-c", f"{named}\n{code}"], environ)
    assert done.returncode == 0, done.stderr
    with engine.connect() as connection:
        [run] = connection.execute(select(RunRow.job, RunRow.key, RunRow.backend))
    assert tuple(run) == ("welcome", "welcome-u1", "rq")


def test_the_table_of_jobs() -> None:
    listed = []
    for spec in catalogue([*JOBS, maintenance]).values():
        schedule = f"`{spec.schedule}`" if spec.schedule else "–"
        names = f"| `{spec.name}` | `{spec.event}` | {schedule} |"
        listed.append(f"{names} {spec.queue} | {spec.serverless} |")
    head, _, rest = README.partition("| job (Inngest function id) |")
    assert head
    assert listed == rest.split("\n\n")[0].splitlines()[2:]


def test_the_table_of_figures() -> None:
    """It has the rows that `make bench` measures, and no others."""
    rows = bench.of_readme(README)
    assert {bench.place(cells[0]) for cells in rows} == set(range(len(bench.ROWS)))
    for _what, ours, theirs, _unit, _who, ratio in rows:
        assert all(float(figure.replace(",", "")) > 0 for figure in (ours, theirs, ratio))


def test_the_page_of_settings_is_up_to_date() -> None:
    """Made anew by `python -m tests.support.configuration`."""
    assert configuration.PAGE.read_text() == configuration.page()


def test_the_index_names_every_page() -> None:
    folder = ROOT / "docs"
    named = re.findall(r"\]\(([\w-]+\.(?:md|yml|json))[)#]", (folder / "index.md").read_text())
    pages = {page.name for page in folder.iterdir() if page.suffix in (".md", ".yml", ".json")}
    assert set(named) == pages - {"index.md"}
