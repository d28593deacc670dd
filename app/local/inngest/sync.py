"""Finding the apps: they are asked to register until they have, and again when they come back."""

import threading
from collections.abc import Callable

import requests

from app.local.inngest import codec
from app.local.inngest.functions import local_url

UNSYNCED_SECONDS = 1.0
SYNCED_SECONDS = 5.0
PUT_SECONDS = 10.0


class Syncer:
    """Asks each app with `PUT {"url": …}`; the app then registers by itself."""

    def __init__(
        self,
        apps: tuple[str, ...],
        kind: str,
        signing_key: str | None,
        clock: Callable[[], float],
    ) -> None:
        self._apps = [local_url(app) for app in apps]
        self._kind, self._signing_key, self._clock = kind, signing_key, clock
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def start(self) -> None:
        """Begin to poll; once only."""
        self._thread.start()

    def stop(self) -> None:
        """Stop polling; a request under way is not waited for longer than a second."""
        self._stopped.set()
        self._thread.join(1)

    def sync(self) -> dict[str, str | None]:
        """Ask every app now; gives for each URL why it did not register, or None."""
        return {app: self._ask(app) for app in self._apps}

    def _poll(self) -> None:
        while True:
            synced = not any(self.sync().values())
            if self._stopped.wait(SYNCED_SECONDS if synced else UNSYNCED_SECONDS):
                return

    def _ask(self, app: str) -> str | None:
        body = codec.dumps({"url": app})
        headers = {"user-agent": "Go-http-client/1.1", "x-inngest-server-kind": self._kind}
        headers["content-type"] = "application/json"
        if self._signing_key is not None:
            headers["x-inngest-signature"] = codec.sign(body, self._signing_key, self._clock())
        try:
            with requests.Session() as session:
                session.trust_env = False
                reply = session.put(app, data=body, headers=headers, timeout=PUT_SECONDS)
                answer = reply.json()
        except requests.RequestException as error:
            return str(error)
        # The SDK passes a refused registration on with status 200: only the body tells.
        registered = isinstance(answer, dict) and answer.get("ok") is True
        return None if registered else f"status {reply.status_code}: {answer}"
