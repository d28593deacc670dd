"""An app that has the layer and nothing else: what that costs."""

from __future__ import annotations

from flask import Flask

from app.switchyard import Switchyard
from tests.bench import jobs

app = Flask(__name__)
Switchyard(app, jobs=[jobs])
