"""The `subak` command as an operator types it, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from tests.stack.network import REPOSITORY, Network


def subak(environment: Mapping[str, str], *arguments: str, code: int | None = 0) -> str:
    """Its standard output. `code`: the exit code that is expected; None: any."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SUBAK_")}
    result = subprocess.run(
        [sys.executable, "-m", "services.cli", *arguments],
        env={**inherited, "COLUMNS": "200", "NO_COLOR": "1", **environment},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )
    shown = f"subak {' '.join(arguments)}: exit code {result.returncode}\n{result.stdout}\n{result.stderr}"
    assert code is None or result.returncode == code, shown
    return result.stdout


def at(network: Network, outlet: str, *arguments: str, code: int | None = 0) -> str:
    """The command as run at an outlet."""
    return subak(network.processes[f"capture.{outlet}"].environment, *arguments, code=code)


def at_hub(network: Network, *arguments: str, code: int | None = 0) -> str:
    return subak(network.processes["hub"].environment, *arguments, code=code)


def parsed(output: str) -> Any:
    return json.loads(output)
