"""Where a bad day would strike a stand-in. Here all days are good; the tests have bad ones."""


class Luck:
    """What happens to a request, and to the messages in it."""

    def refuse(self) -> None:
        """Called before anything is accepted; may end the request."""

    def times(self, at: float) -> list[float]:
        """When to act on an accepted message that is due at `at`, Unix seconds: once, on time."""
        return [at]

    def lose_answer(self) -> None:
        """Called once a request was accepted; may end it."""


GOOD_LUCK = Luck()
