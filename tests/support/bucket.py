"""A real S3-speaking server on loopback, keeping its buckets in a folder."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from localbucket import S3Handler


@contextmanager
def serving_bucket(folder: Path, name: str = "statements") -> Iterator[str]:
    """The server's address; it has one empty bucket."""
    (folder / name).mkdir(parents=True)

    class Handler(S3Handler):  # type: ignore[misc]  # the package has no types
        data_root = folder.resolve()

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
