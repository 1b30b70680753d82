"""`make bench`: figures for MariaDB outlets on this machine, printed and written to bench.json.

Everything runs on this one machine: the hub, three outlets, their six services, three databases on one server, and the
application that is measured. The figures compare versions of Subak with each other; they are no promise.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.bench import figures
from tests.stack.network import Network
from tests.stack.schemas import load
from tests.stack.servers import MissingEngineError, Servers

RESULT = "bench.json"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="of the amounts written (default 1)")
    parser.add_argument("--output", type=Path, default=Path(RESULT))
    options = parser.parse_args()
    console = Console()
    servers = Servers()
    try:
        server = servers.server("mariadb")
    except MissingEngineError as error:
        console.print(f"bench: {error}")
        return 1
    try:
        found = _measure(servers, options.scale, console)
    finally:
        servers.stop()
    machine = {"processors": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}
    document = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine, "figures": found}
    options.output.write_text(json.dumps(document, indent=2) + "\n", "utf-8")
    console.print(_table(found))
    console.print(f"Written to {options.output}. {server.name}, {os.cpu_count()} processors.")
    return 0


def _measure(servers: Servers, scale: float, console: Console) -> dict[str, dict[str, float]]:
    def amount(full: int) -> int:
        return max(200, int(full * scale))

    found: dict[str, dict[str, float]] = {}
    console.print("the cost of the triggers ...")
    alone = servers.fresh("mariadb", "alone")
    load(alone, figures.SCHEMA)
    environment = {
        "SUBAK_DATABASE_URL": alone.render_as_string(hide_password=False),
        "SUBAK_OUTLET": "alone",
        "SUBAK_TABLES": "*",
    }
    found["trigger cost"] = figures.trigger_cost(alone, environment, amount(5_000))

    urls = {name: servers.fresh("mariadb", name) for name in (figures.SOURCE, *figures.TARGETS)}
    for url in urls.values():
        load(url, figures.SCHEMA)
    folder = Path(tempfile.mkdtemp(dir=servers.folder))
    network = Network(folder, servers.fresh("mariadb", "hub"), urls)
    try:
        network.start()
        console.print("latency at 200 transactions/s ...")
        found["latency"] = figures.latency(network, 1_000_000, 200, max(3, int(20 * scale)))
        console.print("single-row transactions ...")
        found["single-row transactions"] = figures.throughput(network, 2_000_000, amount(10_000), 1)
        console.print("bulk ...")
        found["bulk"] = figures.throughput(network, 3_000_000, amount(100_000), 1_000)
        console.print("the hub's memory with a backlog ...")
        found["hub memory"] = figures.hub_memory(network, 4_000_000, amount(200_000))
    except BaseException:
        for name, tail in network.logs():
            console.print(f"--- log of {name}\n{tail}", markup=False)
        raise
    finally:
        network.close()
        shutil.rmtree(folder, ignore_errors=True)
    return found


def _table(found: dict[str, dict[str, float]]) -> Table:
    table = Table("figure", "", "value", title="Subak, MariaDB outlets")
    for figure, values in found.items():
        for number, (name, value) in enumerate(values.items()):
            shown = f"{value:,.2f}" if value < 100 else f"{value:,.0f}"
            table.add_row("" if number else figure, name.replace("_", " "), shown)
    return table


if __name__ == "__main__":
    sys.exit(main())
