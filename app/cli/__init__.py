"""The command line (placeholder until its owner writes it)."""


def register_commands(app: object) -> None:
    """None yet."""
