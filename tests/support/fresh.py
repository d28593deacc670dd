"""The app as a serverless host runs it: a fresh process a request, which can write no file."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from werkzeug.wrappers import Request, Response

from tests.support.forks import Forked
from tests.support.waiting import PATIENCE_SECONDS

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

AT_ONCE = 4

_CODE = """
import json, resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write fails then, and does not kill
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
from app.server import app
asked = json.loads(sys.stdin.readline())
asked["data"] = sys.stdin.read().encode("latin-1")
answer = app.test_client().open(**asked)
sys.stdout.write(json.dumps([answer.status_code, list(answer.headers)]) + "\\n")
sys.stdout.write(answer.get_data().decode("latin-1"))
"""


class FreshProcesses:
    """A WSGI app that hands each request to a process of its own, with this environment."""

    def __init__(self, environ: dict[str, str]) -> None:
        self._environ = environ
        self._slots = threading.Semaphore(AT_ONCE)

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        request = Request(environ)
        asked = {
            "method": request.method,
            "path": request.full_path.rstrip("?"),
            "base_url": request.host_url,
            "headers": [each for each in request.headers if each[0] != "Content-Length"],
            "environ_base": {"REMOTE_ADDR": request.remote_addr},
        }
        body = request.get_data().decode("latin-1")
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with (
            self._slots,
            Forked(["-c", _CODE], env=self._environ, text=True, **pipes) as process,
        ):
            said, _ = process.communicate(f"{json.dumps(asked)}\n{body}", PATIENCE_SECONDS)
        head, _, text = said.partition("\n")
        status, headers = json.loads(head)
        return Response(text.encode("latin-1"), status, headers)(environ, start)
