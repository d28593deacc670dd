"""`make chaos`: the platform in unrest for a while, then the state machine; writes var/chaos.json.

Ends 1 if an effect was lost or happened twice, or something did not come to its end. The seed is
printed: the same one does the same things, as far as real processes can.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from rich.console import Console
from rich.table import Table

from app.platform.config import ROOT
from tests.proof import checker, schedules
from tests.proof.platform import OUTAGES, Platform, Profile
from tests.support.machine import Machine

STEPS = 80
DRAIN_SECONDS = 180.0
PROFILES = {
    "test": Profile(runs=60, flips=8, kills=1, relay_seconds=3.0, most_seconds=240.0, most_alike=8),
    "short": Profile(runs=400, flips=30, kills=3, relay_seconds=10.0, most_seconds=300.0),
    # With the product's own lease and patience, so that its recovery times are a user's.
    "long": Profile(
        runs=3000,
        flips=150,
        kills=40,
        relay_seconds=60.0,
        most_seconds=2400.0,
        lease=10.0,
        check=5.0,
    ),
}


def unrest(seed: int, database: str, profile: Profile, folder: Path) -> dict[str, Any]:
    """What happened, and under `wrong` what did not hold."""
    older = schedules.older_code(folder / "older")
    platform = Platform(seed, database, profile, folder)
    began = time.monotonic()
    try:
        schedules.begin(platform, older)
        cards = schedules.deal(platform)
        dealt, first = 0, len(schedules.deck(platform, first=True))
        while not (enough := platform.has_suffered() and dealt >= first):
            if time.monotonic() - began > profile.most_seconds:
                break
            platform.round()
            if platform.random.random() < 0.42:
                card = next(cards)
                dealt += 1
                platform.faults[card.name] += 1
                with suppress(*OUTAGES):
                    card.happens(platform)
        ended = platform.drain(DRAIN_SECONDS)
        verdict = checker.check(platform.url, folder)
        wrong = [] if enough else ["time ran out before the profile's figures were reached"]
        wrong += [*([] if ended else ["not drained in time"]), *verdict.unfinished[:10]]
        wrong += [f"lost: {what}" for what in list(verdict.lost)[:10]]
        wrong += [f"doubled: {what}" for what in list(verdict.doubled)[:10]]
        runs = checker.rows(platform.url, "SELECT count(*) FROM switchyard_runs")
        return {
            "runs": runs[0][0],
            "flips": platform.flips,
            "kills": platform.killed.total(),
            "faults": dict(sorted(platform.faults.items())),
            "lost": verdict.lost.total(),
            "duplicated": verdict.doubled.total(),
            "killed": dict(sorted(platform.killed.items())),
            "recovery": platform.recovery(),
            "older_code": "beside" if older else "skipped: no history in this clone",
            "wrong": wrong,
        }
    finally:
        platform.stop()


def machine(number: int, examples: int) -> str | None:
    """The state machine, longer than in the tests; what it found."""
    chosen = settings(
        max_examples=examples,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    try:
        run_state_machine_as_test(seed(number)(Machine), settings=chosen)
    except Exception as found:
        notes = "\n".join(getattr(found, "__notes__", []))
        return f"{type(found).__name__}: {found}\n{notes}"
    return None


def main() -> int:
    """Run it all; 0 if it held, 1 if not, 2 for wrong use."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
    parser.add_argument("--database", choices=["sqlite", "postgres"], default="sqlite")
    parser.add_argument("--profile", choices=sorted(PROFILES), default="short")
    parser.add_argument("--examples", type=int, default=100, help="of the state machine")
    given = parser.parse_args()
    if given.examples < 1:
        parser.error("--examples must be at least 1")
    console = Console(highlight=False, emoji=False)
    report = ROOT / "var" / "chaos.json"
    report.unlink(missing_ok=True)  # an earlier one must not pass for this one's
    os.environ.pop("DATABASE_URL", None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is to be ended
    console.print(
        f"seed {given.seed}: {given.profile} unrest on {given.database},"
        f" then {given.examples} examples"
    )
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="swy-chaos-") as folder:
        done = unrest(given.seed, given.database, PROFILES[given.profile], Path(folder))
    done |= {"seconds": round(time.monotonic() - began, 1), "seed": given.seed}
    done |= {"database": given.database, "profile": given.profile}
    wrong = done.pop("wrong")
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text(json.dumps(done, indent=1) + "\n")
    shown = Table("what", "how many")
    for name, value in done.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        for part, count in parts:
            shown.add_row(f"{name} {part}".strip(), str(count))
    console.print(shown)
    if (found := machine(given.seed, given.examples)) is not None:
        wrong.append(f"state machine: {found}")
    for line in wrong:
        console.print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
