"""A certificate that will end soon: told at the start and then daily, with a figure that follows the file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from services.cli.expiring import warning
from services.kernel import expiry
from services.kernel.tls import TlsSettings
from services.kernel.wire.session import Side
from tests.unit.certificates import Certificates

FIGURE = "subak_certificate_expiry_timestamp_seconds"
LIMIT = 15.0


@pytest.fixture
def ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Certificates:
    monkeypatch.setattr(expiry, "LOOK_SECONDS", 0.02)
    return Certificates(tmp_path)


def figure() -> float | None:
    return REGISTRY.get_sample_value(FIGURE)


def watched(tls: TlsSettings | None, *met: Callable[[], bool], side: Side = Side.OUTLET) -> None:
    """Until each of these has come true, one after the other."""

    async def watching() -> None:
        async with asyncio.timeout(LIMIT), expiry.watched(tls, side):
            for one in met:
                while not one():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

    asyncio.run(watching())


def test_it_is_told_at_the_start_and_every_day(ours: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    soon = ours.issue("ubud", lifetime=timedelta(days=29))._replace(crl=None)
    with capture_logs() as logs:
        watched(soon, lambda: figure() is not None, lambda: len(logs) > 0)
        assert len(logs) == 1
        monkeypatch.setattr(expiry, "WARNING_SECONDS", 0.1)
        watched(soon, lambda: len(logs) == 4)
    assert {line["event"] for line in logs} == {"this service's certificate will expire soon"}
    assert all(28 < line["days_left"] < 29.1 and "ubud's" in line["certificate"] for line in logs)


@pytest.mark.parametrize(
    ("side", "command"),
    [(Side.OUTLET, "subak pki issue ubud --renew"), (Side.HUB, "subak pki issue ubud --hub --renew")],
)
def test_the_warning_names_the_command_that_renews_it(ours: Certificates, side: Side, command: str) -> None:
    soon = ours.issue("ubud", side, timedelta(days=3))._replace(crl=None)
    with capture_logs() as logs:
        watched(soon, lambda: len(logs) > 0, side=side)
    assert f"`{command}`" in logs[0]["todo"]


def test_the_figure_follows_the_file(ours: Certificates) -> None:
    tls = ours.issue("ubud", lifetime=timedelta(days=100))._replace(crl=None)
    figures: list[float] = []

    def renewed() -> bool:
        figures.append(figure() or 0)
        if len(set(figures) - {0}) == 1:
            ours.issue("ubud", lifetime=timedelta(days=200))
        return len(set(figures) - {0}) == 2

    with capture_logs() as logs:
        watched(tls, renewed)
    assert logs == []
    assert 99 < (max(figures) - min(set(figures) - {0})) / 86_400 < 101


def test_files_that_cannot_be_used_are_a_figure_and_told_daily(
    ours: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = ours.issue("ubud", lifetime=timedelta(days=100))
    crl = tls.crl
    assert crl is not None
    good = crl.read_bytes()
    monkeypatch.setattr(expiry, "WARNING_SECONDS", 0.1)

    def usable() -> float | None:
        return REGISTRY.get_sample_value("subak_certificate_files_usable")

    def told() -> int:
        return sum("still" in line["event"] and str(crl) in line["why"] for line in logs)

    def break_it() -> bool:
        crl.write_bytes(good[:100])
        return True

    def mend_it() -> bool:
        crl.write_bytes(good)
        return True

    with capture_logs() as logs:
        watched(
            tls,
            lambda: usable() == 1,
            break_it,
            lambda: usable() == 0,
            lambda: told() >= 2,
            mend_it,
            lambda: usable() == 1,
        )


def test_without_tls_there_is_no_figure(ours: Certificates) -> None:
    watched(None, lambda: figure() is None)
    watched(ours.issue("ubud"), lambda: figure() is not None)
    assert figure() is None


def test_what_status_says() -> None:
    assert warning("ubud's", None, "ubud") is None
    assert warning("ubud's", "2999-01-01T00:00:00Z", "ubud") is None
    said = warning("The hub's", "2020-02-03T00:00:00Z", "hub --hub")
    assert said is not None
    assert "The hub's certificate EXPIRED on 2020-02-03" in said and "subak pki issue hub --hub" in said
