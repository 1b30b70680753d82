"""The demo's network: the hub and two services per outlet, as real processes on this machine's loopback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import URL

from services.kernel.errors import PermanentError

START_SECONDS = 30.0
STOP_SECONDS = 12.0
"""A service finishes what is in flight within 10 s."""


@dataclass(frozen=True)
class Outlet:
    name: str
    url: URL


class Network:
    """`outlets` are in the hub's list already; what each process says goes to a file in `folder`."""

    def __init__(self, folder: Path, hub_url: URL, outlets: Mapping[str, URL]) -> None:
        self._folder = folder
        self._listen = f"127.0.0.1:{_free_port()}"
        self.hub_url = hub_url
        self.outlets = [Outlet(name, url) for name, url in outlets.items()]
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Raises PermanentError `hub_failed` when the hub does not answer in time."""
        self._run(
            "hub",
            "services.hub",
            SUBAK_HUB_LISTEN=self._listen,
            SUBAK_HUB_DATABASE_URL=_text(self.hub_url),
        )
        self._await_hub()
        for outlet in self.outlets:
            self.connect(outlet)

    def connect(self, outlet: Outlet) -> None:
        for service in ("capture", "applier"):
            self._run(
                f"{service}-{outlet.name}",
                f"services.{service}",
                SUBAK_OUTLET=outlet.name,
                SUBAK_HUB=self._listen,
                SUBAK_DATABASE_URL=_text(outlet.url),
            )

    def cut_off(self, outlet: Outlet) -> None:
        """Both services of an outlet die on the spot, as in a power cut; its shop sells on."""
        for service in ("capture", "applier"):
            process = self._processes.pop(f"{service}-{outlet.name}")
            process.kill()
            process.wait()

    def dead(self) -> list[str]:
        """The processes that ended by themselves."""
        return [name for name, process in self._processes.items() if process.poll() is not None]

    def stop(self) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()

    def _run(self, name: str, module: str, **settings: str) -> None:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("SUBAK_")}
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", module],
                env=inherited | settings | {"SUBAK_TLS": "off"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the demo, which stops them in order
            )

    def _await_hub(self) -> None:
        host, port = self._listen.split(":")
        limit = time.monotonic() + START_SECONDS
        while time.monotonic() < limit and not self.dead():
            try:
                socket.create_connection((host, int(port)), 1.0).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise PermanentError("hub_failed", "The hub does not start.", f"Its log is {self._folder / 'hub.log'}.")


def _text(url: URL) -> str:
    return url.render_as_string(hide_password=False)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
