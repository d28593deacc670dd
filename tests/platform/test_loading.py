"""Each library is loaded by whom it serves: the app starts and works without the others."""

from __future__ import annotations

from pathlib import Path

from app.platform import JOBS
from tests.switchyard.test_bare import blocking

DOCUMENTS = ("av", "PIL", "fpdf", "uharfbuzz", "fontTools", "obstore")
APP = """
os.environ["REDIS_URL"] = "redis://127.0.0.1:1/0"
from app.server import app
run = app.test_cli_runner().invoke
assert run(args=["db", "upgrade"]).exit_code == 0
payload = '{"targetDate": "2025-01-15"}'
rolled = run(args=["jobs", "run", "daily-earnings-rollup", payload, "--json"])
listed = run(args=["jobs", "list", "--json"])
print(json.dumps([
    app.test_client().get("/healthz").status_code,
    json.loads(rolled.stdout)["status"],
    sorted(one["name"] for one in json.loads(listed.stdout)),
]))
"""


def test_without_what_documents_films_and_files_need_the_app_works(tmp_path: Path) -> None:
    status, rolled, names = blocking(APP, *DOCUMENTS, folder=tmp_path)
    assert (status, rolled) == (200, "succeeded")
    assert {"process-media", "monthly-earnings-rollup"} < set(names)


def test_a_declaration_of_jobs_needs_no_web_and_no_file(tmp_path: Path) -> None:
    code = f"print(json.dumps([importlib.import_module(name).__name__ for name in {JOBS!r}]))"
    assert blocking(code, "flask", "werkzeug", *DOCUMENTS, folder=tmp_path) == list(JOBS)
