"""The platform's tables, for migrations and tests."""

from __future__ import annotations

from app.platform.config import ROOT
from app.platform.db import Base
from app.platform.earnings import models as earnings
from app.platform.ledger import models as ledger
from app.platform.media import models as media
from app.platform.payouts import models as payouts
from app.platform.statements import models as statements
from app.platform.webhooks import models as webhooks
from app.switchyard.branch import Branch

metadata = Base.metadata
MODULES = (webhooks, ledger, payouts, earnings, statements, media)
"""The modules that define the tables."""

BRANCH = Branch(
    "platform", ROOT / "migrations" / "platform" / "versions", "alembic_version", metadata
)
