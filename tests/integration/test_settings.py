"""The compose files by themselves: every profile, alone and with the others, and what a remote outlet runs."""

from __future__ import annotations

import pytest

from tests.stack.compose import OUTLETS, SERVICES, Stack

PROFILES = ("", *OUTLETS, "shop", "observability", "test", "cli", "*")


@pytest.fixture(scope="module")
def unstarted(engine: str) -> Stack:
    return Stack([])


@pytest.mark.parametrize("ports", ["", "deploy/ports.yml"])
@pytest.mark.parametrize("profile", PROFILES)
def test_compose_takes_every_profile(unstarted: Stack, profile: str, ports: str) -> None:
    files = [option for file in ("docker-compose.yml", ports) if file for option in ("--file", file)]
    found = unstarted.configuration(*files, "--profile", profile)["services"]
    assert {"hub", "hub-db", "hub-setup"} <= {*found}
    outlets = [name for name in OUTLETS if profile in (name, "*")]
    assert {f"{name}-{service}" for name in outlets for service in SERVICES} <= {*found}
    assert {name for name in OUTLETS if f"{name}-db" in found} == {*outlets}
