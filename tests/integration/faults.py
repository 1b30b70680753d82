"""What is done to a container while the tills sell, one function each. They end with the container running again, not yet healthy."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from tests.stack.compose import Stack
from tests.stack.network import wait_for

PAUSED_SECONDS = 11.0
"""Longer than a health check's interval, shorter than a peer that says nothing is waited for."""

PAUSING_SECONDS = 60.0
"""As long as a database may wait for a slow disk without a break."""

CUT_SECONDS = 4.0
RESTARTED_SECONDS = 60.0


def killed(stack: Stack, service: str) -> None:
    """To the engine that counts as a stop by hand: nobody starts it again but us."""
    container = stack.container(service)
    stack.docker("kill", "--signal", "KILL", container)
    stack.docker("start", container)


def crashed(stack: Stack, service: str) -> None:
    """Its process dies, and the engine starts it again by itself."""
    before = stack.inspect(service)
    ours = Path(f"/proc/{before['State']['Pid']}/cgroup").read_text()
    assert stack.container(service) in ours, "the engine runs on another machine: its processes are not ours to kill"
    os.kill(before["State"]["Pid"], signal.SIGKILL)

    def restarted() -> bool:
        now = stack.inspect(service)
        return now["RestartCount"] > before["RestartCount"] and now["State"]["Running"]

    wait_for(f"{service} to be restarted by the engine", restarted, RESTARTED_SECONDS)


def paused(stack: Stack, service: str) -> None:
    """It is there, and says nothing: nor do its connections end."""
    container = stack.container(service)
    # With version 1 of control groups, a process that waits for its disk can't be frozen; runc gives up after some milliseconds, and thaws all.
    unfrozen = retry_if_exception(lambda error: "unable to freeze" in str(error))
    Retrying(stop=stop_after_delay(PAUSING_SECONDS), wait=wait_fixed(0.05), retry=unfrozen, reraise=True)(
        stack.docker, "pause", container
    )
    try:
        time.sleep(PAUSED_SECONDS)  # what is done is that nothing happens for so long
    finally:
        stack.docker("unpause", container)


def cut_off(stack: Stack, service: str) -> None:
    """From all its networks; then back, under the names that it had."""
    container = stack.container(service)
    networks = stack.inspect(service)["NetworkSettings"]["Networks"]
    for network in networks:
        stack.docker("network", "disconnect", "--force", network, container)
    try:
        time.sleep(CUT_SECONDS)
    finally:
        for network, facts in networks.items():
            aliases = [option for alias in facts["Aliases"] or [] for option in ("--alias", alias)]
            stack.docker("network", "connect", *aliases, network, container)


def restarted(stack: Stack, service: str) -> None:
    stack.compose("restart", service)


FAULTS: tuple[Callable[[Stack, str], None], ...] = (killed, crashed, paused, cut_off, restarted)
