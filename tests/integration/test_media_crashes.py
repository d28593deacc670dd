"""Kill -9 in the midst of media: the variant at hand is made again, and no other."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import select

from app.platform.media.models import media_made
from tests.integration.test_crashes import POINTS
from tests.integration.test_media_job import check_photo, document, environ, filled, written
from tests.support.dying import dying
from tests.support.footage import video
from tests.support.sides import (
    Side,
    environment,
    fresh,
    relaying,
    rq_worker,
)
from tests.support.waiting import PATIENCE_SECONDS, until

MEDIA_POINTS = {name for name in POINTS if name.startswith("media.")}


def test_it_dies_everywhere_and_is_whole(redis_url: str, tmp_path: Path) -> None:
    """On RQ; what steps are to the other side, test_payout_crashes shows."""
    database_url = f"sqlite:///{tmp_path / 'test.db'}"
    with ExitStack() as stack:
        deaths, folder = tmp_path / "deaths", tmp_path / "storage"
        environ_ = environment(
            database_url,
            redis_url,
            LEASE_SECONDS="0.5",
            CHECK_SECONDS="0.3",
            **environ(folder.as_uri()),
        )
        storage = filled(folder.as_uri())
        made = fresh(database_url, environ_, None)
        stack.callback(made.db.dispose)
        on = Side("rq", made, environ_)
        stack.enter_context(relaying(made, 0.05))
        crashing = {**environ_, "SWITCHYARD_CRASH_EACH": str(deaths)}
        stack.enter_context(dying("rq", crashing, 0, tmp_path / "dying.log"))
        run = on.dispatch("process-media", {"mediaId": "m1", "source": "up/a.jpg"})
        (row,) = on.finish(run, patience_seconds=200.0)
        assert row.status == "succeeded", row.error
        check_photo(storage, document(on, "m1"))
        assert len(written(folder)) == 4
        died = set(deaths.read_text().split())
        for name, step in on.steps(run.id).items():
            assert step.attempts == 1
            assert {f"step.uncommitted@{name}", f"step.recorded@{name}"} <= died
        for name in ("thumb", "small", "medium", "large"):
            assert {f"{point}@{name}" for point in MEDIA_POINTS} <= died


def the_decoder(worker: int, argument: str) -> psutil.Process:
    """The worker's ffmpeg with this argument, once it runs."""

    def found() -> psutil.Process | None:
        for child in psutil.Process(worker).children():
            with suppress(psutil.Error):  # it may end meanwhile
                if argument in child.cmdline() and "ffmpeg" in Path(child.exe()).name:
                    return child
        return None

    started = until(found, "it was not started", every_seconds=0.01)
    assert started is not None
    return started


def test_a_worker_dies_while_a_film_is_made(redis_url: str, tmp_path: Path) -> None:
    database_url, folder = f"sqlite:///{tmp_path / 'test.db'}", tmp_path / "storage"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    environ_ = environment(
        database_url,
        redis_url,
        LEASE_SECONDS="1",
        CHECK_SECONDS="0.3",
        TMPDIR=str(scratch),
        **environ(folder.as_uri()),
    )
    storage = filled(folder.as_uri())
    storage.put("up/long.mp4", video(size="1280x720", seconds=4.0), "video/mp4")
    made = fresh(database_url, environ_, None)
    with ExitStack() as stack:
        stack.callback(made.db.dispose)
        stack.enter_context(relaying(made))
        on = Side("rq", made, environ_)
        run = on.dispatch("process-media", {"mediaId": "m1", "source": "up/long.mp4"})
        with rq_worker(environ_, tmp_path / "first.log") as worker:
            decoder = the_decoder(worker.pid, "libx264")
            before, files = steps(on, run.id), written(folder)
            worker.kill()
            worker.wait()
            decoder.wait(PATIENCE_SECONDS)
        assert set(before) == {"inspect", "poster"}
        assert len(files) == 1
        assert list(scratch.iterdir()) == []
        stack.enter_context(rq_worker(environ_, tmp_path / "second.log"))
        (row,) = on.finish(run)
        assert row.status == "succeeded", row.error
        after = steps(on, run.id)
        assert {name: after[name] for name in before} == before
        assert set(after) == {"inspect", "poster", "mp4", "finish"}
        assert files.items() < written(folder).items()
        with made.db.autocommit() as connection:
            assert len(connection.execute(select(media_made.c.recipe)).all()) == 3


def steps(on: Side, run_id: str) -> dict[str, Any]:
    return {name: (step.updated_at, step.result) for name, step in on.steps(run_id).items()}


def test_a_decoder_that_is_killed_fails_its_attempt_alone(redis_url: str, tmp_path: Path) -> None:
    """As by the kernel where memory runs out: the worker lives, and the step is tried again."""
    database_url, folder = f"sqlite:///{tmp_path / 'test.db'}", tmp_path / "storage"
    environ_ = environment(database_url, redis_url, **environ(folder.as_uri()))
    storage = filled(folder.as_uri())
    storage.put("up/long.mp4", video(size="1280x720", seconds=4.0), "video/mp4")
    made = fresh(database_url, environ_, None)
    with ExitStack() as stack:
        stack.callback(made.db.dispose)
        stack.enter_context(relaying(made))
        on = Side("rq", made, environ_)
        worker = stack.enter_context(rq_worker(environ_, tmp_path / "worker.log"))
        run = on.dispatch("process-media", {"mediaId": "m1", "source": "up/long.mp4"})
        the_decoder(worker.pid, "libx264").kill()
        until(lambda: on.row(run.id).error is not None)
        row = on.row(run.id)
        assert (row.status, row.attempt) == ("waiting", 2)
        assert "DecoderLost" in row.error
        (other,) = on.finish(on.dispatch("process-media", {"mediaId": "m2", "source": "up/a.jpg"}))
        assert other.status == "succeeded"
        assert worker.poll() is None
