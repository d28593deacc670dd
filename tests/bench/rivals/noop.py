"""The rival's no-op: a module that imports nothing, so that a fresh fork pays for nothing else."""


def noop(n: int) -> None:
    """Nothing."""
