"""Whose calls the server admits, and how it signs its own: as a dev server all, and not at all."""


class Keys:
    """The keys of a dev server, which has none."""

    server_kind = "dev"
    """What the server calls itself."""

    def admits_event(self, key: str) -> bool:
        """Whether an event may be sent with this key in the URL."""
        return True

    def admits(self, authorization: str) -> bool:
        """Whether a request to the REST API has the right header."""
        return True

    def sign(self, body: bytes, now: float) -> tuple[bytes, dict[str, str]]:
        """The body as it is sent at `now`, Unix seconds, and the headers that sign it."""
        return body, {}

    def signed(self, body: bytes, header: str) -> bool:
        """Whether an SDK's answer is signed as it must be."""
        return True


NO_KEYS = Keys()
