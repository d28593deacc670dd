"""Every table of the product, for migrations and tests."""

from __future__ import annotations

from app.cutover import stages
from app.db import Base
from app.runs import models as runs

metadata = Base.metadata

__all__ = ["metadata", "runs", "stages"]
