"""What is written at one outlet of the running stack is at every other; and afterwards all outlets hold the same rows."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL, make_url

from tests.stack.application import application_engine
from tests.stack.audit import audit

FOLDER = os.environ.get("SUBAK_TEST_SHOPS", "")
ARRIVAL_SECONDS = 30.0
"""A second is what it takes; a machine that runs a whole network, and tills, may be slow."""

QUIET_SECONDS = 120.0

pytestmark = pytest.mark.skipif(not FOLDER, reason="SUBAK_TEST_SHOPS is not set: this runs inside the compose network")


def _runs(url: URL) -> bool:
    """The engine knows the names of containers that run, and no others."""
    try:
        socket.getaddrinfo(url.host, url.port)
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def outlets() -> dict[str, URL]:
    """Those whose databases run: the others' profiles are off."""
    files = sorted(path for path in Path(FOLDER).glob("[!.]*") if path.is_file())
    found = {path.name: make_url(path.read_text().strip()) for path in files}
    running = {name: url for name, url in found.items() if _runs(url)}
    assert len(running) >= 2, f"of {sorted(found)} only {sorted(running)} run: switch two outlets on"
    return running


def _one(url: URL, statement: str, **values: object) -> object:
    engine = application_engine(url)
    try:
        with engine.begin() as connection:
            done = connection.execute(text(statement), values)
            return done.scalar() if done.returns_rows else None
    finally:
        engine.dispose()


def _within(seconds: float, seen: Callable[[], object], wanted: object) -> float:
    began = time.monotonic()
    while (last := seen()) != wanted:
        assert time.monotonic() - began < seconds, f"after {seconds:.0f} s: {last!r}, not {wanted!r}"
        time.sleep(0.02)
    return time.monotonic() - began


def test_what_is_written_at_one_outlet_is_at_every_other(outlets: dict[str, URL]) -> None:
    for origin, url in outlets.items():
        receipt = f"test-{uuid.uuid4().hex}"
        _one(
            url,
            "INSERT INTO sales (receipt, shop, sold_at, total, remark) VALUES (:receipt, :shop, :at, 12.50, :remark)",
            receipt=receipt,
            shop=origin,
            at="2024-02-29 13:14:15.123456",
            remark="領収書 🎁",
        )
        for target in outlets.keys() - {origin}:
            took = _within(
                ARRIVAL_SECONDS,
                lambda target=target, receipt=receipt: _one(  # type: ignore[misc]
                    outlets[target], "SELECT remark FROM sales WHERE receipt = :receipt", receipt=receipt
                ),
                "領収書 🎁",
            )
            print(f"{origin} -> {target}: {took:.2f} s")


def test_all_outlets_hold_the_same_rows(outlets: dict[str, URL]) -> None:
    """Also while tills sell: a row that is under way differs for a moment, and none does for long."""
    differing = {(one.table, one.key) for one in audit(outlets).differences}

    def left() -> int:
        nonlocal differing
        differing &= {(one.table, one.key) for one in audit(outlets).differences}
        return len(differing)

    _within(QUIET_SECONDS, left, 0)
