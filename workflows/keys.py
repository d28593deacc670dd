"""QStash's signing keys: as the settings name them, else asked of QStash by its token."""

from __future__ import annotations

import time
from collections.abc import Callable

from app.switchyard.config import Settings
from app.switchyard.errors import BackendUnavailable, Unauthorized
from workflows.qstash import asked, make_client

ANEW_SECONDS = 60.0
"""How often QStash is asked at most: whoever sends forged calls must not make us ask for each."""


class SigningKeys:
    """The current key and the next one."""

    def __init__(self, settings: Settings, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._monotonic = monotonic
        current, after = settings.qstash_current_signing_key, settings.qstash_next_signing_key
        self._set = current is not None or settings.qstash_secret is None
        self._keys: tuple[str, str] | None = None
        if current is not None:
            self._keys = current.get_secret_value(), (after or current).get_secret_value()
        self._ask_again = 0.0

    def known(self) -> tuple[str, str]:
        """The keys. Raises Unauthorized where nobody can know them, BackendUnavailable where
        QStash was asked and could not say."""
        if self._keys is None:
            if self._set:
                raise Unauthorized("there are no keys to check it with")
            if (asked_now := self.asked_anew()) is None:
                raise BackendUnavailable("qstash: its signing keys are not known yet")
            return asked_now
        return self._keys

    def asked_anew(self) -> tuple[str, str] | None:
        """The keys as QStash has them now, if it is to be asked and it is time to: they may have
        been rotated. Raises BackendUnavailable."""
        if self._set or self._monotonic() < self._ask_again:
            return None
        self._ask_again = self._monotonic() + ANEW_SECONDS
        client = make_client(self._settings)
        found = asked(client.signing_key.get)
        self._keys = found.current, found.next
        return self._keys


_of_process: dict[tuple[object, ...], SigningKeys] = {}


def signing_keys(settings: Settings) -> SigningKeys:
    """The keys of this process for the account that the settings name."""
    account = (
        *(settings.qstash_url, settings.qstash_secret),
        *(settings.qstash_current_signing_key, settings.qstash_next_signing_key),
    )
    return _of_process.setdefault(account, SigningKeys(settings))
