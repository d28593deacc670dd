"""The WSGI entry: gunicorn's `app.server:app`, and Vercel's."""

from __future__ import annotations

import sys

from app import create_app
from app.switchyard.errors import SettingsError

APP_LOAD_ERROR = 4
"""The exit code at which gunicorn gives up; at any other it starts a worker again and again."""

try:
    app = create_app()
except SettingsError as failure:
    sys.stderr.write(f"switchyard: {failure}\n")
    sys.exit(APP_LOAD_ERROR)
