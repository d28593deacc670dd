"""The jobs that the layer brings itself."""

from __future__ import annotations

JOBS = tuple(f"{__name__}.{module}" for module in ("relay", "cutover", "canary"))
"""The modules that declare them."""
