"""Every table of the product, for migrations and tests."""

from __future__ import annotations

from app.platform.earnings import models as earnings
from app.platform.earnings import rollup_models as rollups
from app.platform.gateways import pace
from app.platform.ledger import models as ledger
from app.platform.mail import models as mail
from app.platform.media import models as media
from app.platform.payouts import inbox
from app.platform.payouts import models as payouts
from app.platform.statements import models as statements
from app.platform.webhooks import inbox as webhooks
from app.switchyard.cutover import marks, parity, pins, stages
from app.switchyard.db import Base as Base
from app.switchyard.runs import models as runs

metadata = Base.metadata
MODULES = (
    *(runs, stages, pins, parity, marks, pace, webhooks, inbox, ledger, payouts, earnings),
    *(rollups, statements, mail, media),
)
"""Where the tables are."""
