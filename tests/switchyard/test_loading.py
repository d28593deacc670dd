"""A process that nobody wired finds its Flask app as `flask` does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask

from app.switchyard import runtime
from app.switchyard.errors import SettingsError
from app.switchyard.runtime import load_app

SHOP = """
from flask import Flask

def create_app(name="shop"):
    app = Flask(name)
    app.extensions["switchyard"] = object()
    return app

plain = Flask("plain")
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with modules of its own."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLASK_APP", raising=False)
    (tmp_path / f"shop_{tmp_path.name}.py").write_text(SHOP)
    runtime._loaded.cache_clear()
    yield tmp_path
    runtime._loaded.cache_clear()


def test_flask_app_names_a_factory_which_is_called_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLASK_APP", f"shop_{folder.name}:create_app('till')")
    app = load_app()
    assert app.import_name == "till"
    assert load_app() is app
    current = Flask("current")
    with current.app_context():
        assert load_app() is current


def test_a_dotenv_file_may_name_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLASK_APP", "")  # so that it is taken back at the end
    monkeypatch.delenv("FLASK_APP")
    (folder / ".flaskenv").write_text(f"FLASK_APP=shop_{folder.name}:create_app\n")
    assert load_app().import_name == "shop"


@pytest.mark.parametrize(
    ("named", "why"),
    [
        ("nowhere.py", "Could not import"),
        ("shop_{}:create", "Failed to find attribute"),
        ("shop_{}:plain", "has no Switchyard"),
    ],
)
def test_an_app_that_cannot_be_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch, named: str, why: str
) -> None:
    monkeypatch.setenv("FLASK_APP", named.format(folder.name))
    with pytest.raises(SettingsError, match=f"FLASK_APP: .*{why}"):
        load_app()
