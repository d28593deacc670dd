"""The layer's tables, whole."""

from __future__ import annotations

from app.switchyard.cutover import marks, parity, pins, stages
from app.switchyard.db import Base
from app.switchyard.runs import models as runs

metadata = Base.metadata
MODULES = (runs, stages, pins, parity, marks)
"""Where the tables are."""
