"""A folder and a bucket over real HTTP keep the same rules."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from app.platform.config import ROOT, load
from app.platform.gateways import storage as storage_module
from app.platform.gateways.storage import (
    PIECE,
    Storage,
    StorageMissing,
    StorageUnavailable,
)
from app.switchyard.errors import BadInput, SettingsError
from tests.support.bucket import serving_bucket
from tests.support.receiver import Receiver
from tests.support.waiting import PATIENCE_SECONDS, until

PDF = "application/pdf"
PATH = "statements/2025-01/ana-0a1b.pdf"


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "shh-secret")


@pytest.fixture(params=["folder", "bucket", "bucket, prefix"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    if request.param == "folder":
        yield Storage((tmp_path / "a b%").as_uri())
        return
    prefix = "/some/where" if "prefix" in request.param else ""
    with serving_bucket(tmp_path) as url:
        yield bucket_at(url, prefix)


def test_what_is_put_is_got(storage: Storage) -> None:
    for data in (b"old" * 1_000, b"", b"%PDF-1.7\0\xff" * 200_000):
        storage.put(PATH, data, PDF)
        assert storage.get(PATH) == data
    for name in ("statements", "statements/2025-01", f"{PATH}/below", "none"):
        with pytest.raises(StorageMissing, match=name):
            storage.get(name)


@pytest.mark.parametrize("size", [0, 5, PIECE, 2 * PIECE + 12_345])
def test_a_file_goes_in_and_comes_out_in_pieces(storage: Storage, size: int) -> None:
    data = (b"0123456789abcdef!" * (size // 17 + 1))[:size]
    with tempfile.TemporaryFile() as given:
        given.write(data)
        storage.put(PATH, given, "video/mp4")
    assert storage.get(PATH) == data
    with tempfile.TemporaryFile() as taken:
        storage.fetch(PATH, taken, at_most=size)
        assert taken.tell() == size
        taken.seek(0)
        assert taken.read() == data
        with pytest.raises(BadInput, match=f"{size:,} bytes"):
            storage.fetch(PATH, taken, at_most=size - 1)
        assert taken.tell() == size
        with pytest.raises(StorageMissing):
            storage.fetch("none", taken, at_most=size)


@pytest.mark.parametrize(
    "path",
    [
        *("", "/", "/etc/passwd", "..", ".", "../x", "a/../x", "a/..", "./a", "a//b", "a/", "a\0b"),
        *("a\\..\\x", "C:x", "a\nb", "a b", "ä", "%2e%2e/x", "~root", "a" * 141, "a/" * 100 + "a"),
    ],
)
def test_no_path_leads_out_of_it(tmp_path: Path, path: str) -> None:
    storage = Storage(tmp_path.as_uri())
    with pytest.raises(BadInput, match="no path"):
        storage.get(path)
    with pytest.raises(BadInput, match="no path"):
        storage.put(path, b"x", PDF)


def test_a_put_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    storage = Storage(tmp_path.as_uri())
    storage.put("a", b"old", PDF)
    with pytest.raises(StorageUnavailable):
        storage.put("a/b", b"new", PDF)
    (tmp_path / "folder" / "within").mkdir(parents=True)
    with pytest.raises(StorageUnavailable):
        storage.put("folder", b"new", PDF)
    assert storage.get("a") == b"old"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "folder", "within"]


def bucket_at(url: str, prefix: str = "") -> Storage:
    return Storage(f"s3://statements{prefix}?endpoint={url}&region=eu-central-1")


@pytest.mark.parametrize("status", [301, 403, 500])
def test_a_bucket_that_answers_otherwise_is_unavailable(receiver: Receiver, status: int) -> None:
    receiver.status = status
    storage = bucket_at(receiver.url)
    with pytest.raises(StorageUnavailable) as failure:
        storage.get(PATH)
    assert "shh-secret" not in str(failure.value)
    with pytest.raises(StorageUnavailable):
        storage.put(PATH, b"x", PDF)
    assert 2 <= len(receiver.got) <= 6


def test_a_bucket_that_does_not_answer_is_given_up(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_module, "TIMEOUT", timedelta(seconds=0.2))
    receiver.release.clear()
    with pytest.raises(StorageUnavailable):
        bucket_at(receiver.url).get(PATH)
    until(lambda: receiver.got)
    assert len(receiver.got) <= 3
    with pytest.raises(StorageUnavailable):
        bucket_at("http://127.0.0.1:1").get(PATH)


FORKED = """
import os, sys
from app.platform.gateways.storage import Storage, StorageUnavailable
storage = Storage(sys.argv[1])
storage.put("a", b"a", "text/plain") if "used" in sys.argv else None
child = os.fork()
if child:
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
try:
    storage.put("a", b"b", "text/plain")
    os._exit(10)
except StorageUnavailable as failure:
    os._exit(20 + ("forked" in str(failure)))
"""


@pytest.mark.parametrize(("used", "code"), [([], 10), (["used"], 21)])
def test_a_forked_process_uses_it_afresh_or_says_that_it_cannot(
    tmp_path: Path, used: list[str], code: int
) -> None:
    with serving_bucket(tmp_path) as url:
        where = f"s3://statements?endpoint={url}"
        done = subprocess.run(
            [sys.executable, "-c", FORKED, where, *used], cwd=ROOT, timeout=PATIENCE_SECONDS
        )
    assert done.returncode == code


@pytest.mark.parametrize(
    "url",
    [
        *("file://folder", "file://host/folder", "file:///folder?a=1", "file:///folder#a"),
        *("s3://", "s3:///prefix", "s3://bucket#x"),
        *("s3://bucket?secret=1", "s3://key:secret@bucket"),
        *(f"s3://bucket?endpoint={of}" for of in ("", "x", "ftp://x", "http://[::1", "http://x:0")),
    ],
)
def test_an_address_that_is_none(url: str) -> None:
    with pytest.raises(SettingsError, match=r"^STORAGE_URL: ") as failure:
        Storage(url)
    assert "secret" not in str(failure.value)


def test_what_the_settings_take() -> None:
    assert load({}).storage_url == f"file://{os.fspath(ROOT / 'var' / 'storage')}"
    with pytest.raises(SettingsError, match="STORAGE_URL: must start with file:// or s3://"):
        load({"STORAGE_URL": "gs://bucket"})
