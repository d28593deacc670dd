"""The commands of `flask --app app`: the way in for operators, scripts and process managers."""

from __future__ import annotations

from flask import Flask


def register_commands(app: Flask) -> None:
    """Hang every command on the app."""
