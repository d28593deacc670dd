"""The WSGI entry: gunicorn's `app.server:app`, and Vercel's."""

from __future__ import annotations

import sys

from app import create_app
from app.errors import SettingsError

try:
    app = create_app()
except SettingsError as failure:
    sys.exit(f"switchyard: {failure}")
