"""A real Prometheus for one test: own folder, own free loopback port, stopped by its process id. `promtool` beside it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.stack.servers import MissingEngineError, die_with_parent, free_port

START_SECONDS = 30.0
STOP_SECONDS = 10.0


def program(name: str) -> str:
    """`prometheus` or `promtool`. Raises MissingEngineError."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "subak-test/prometheus/usr/bin" / name
    found = shutil.which(name) or (str(cache) if os.access(cache, os.X_OK) else None)
    if found is None:
        raise MissingEngineError(f"no {name} here: `bash tests/engines.sh` as root gets it")
    return found


def check(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs promtool in that folder."""
    return subprocess.run(
        [program("promtool"), *arguments], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


class QueryError(AssertionError):
    """Prometheus refused a query; the text has it, and why."""


class Prometheus:
    def __init__(self, port: int) -> None:
        self.port = port

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What it evaluates to now: a vector's elements. Raises QueryError."""
        try:
            answer = self._get("query", query=expression)
        except urllib.error.HTTPError as error:
            raise QueryError(f"{expression}\n{error.read().decode()}") from None
        data = answer["data"]
        if data["resultType"] == "scalar":
            return [{"metric": {}, "value": data["result"]}]
        return list(data["result"])

    def rules(self) -> list[dict[str, Any]]:
        """All alerting rules, with their health as Prometheus finds it."""
        return [rule for group in self._get("rules", type="alert")["data"]["groups"] for rule in group["rules"]]

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _get(self, page: str, **parameters: str) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.port}/api/v1/{page}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
        return found


@contextmanager
def running(folder: Path, targets: Mapping[str, Sequence[str]], rules: Path, seconds: int = 1) -> Iterator[Prometheus]:
    """Asks the targets, job by job, every so many seconds, and has those alert rules. Raises MissingEngineError."""
    command, port = program("prometheus"), free_port()
    configuration = {
        "global": {
            "scrape_interval": f"{seconds}s",
            "scrape_timeout": f"{seconds}s",
            "evaluation_interval": f"{seconds}s",
        },
        "rule_files": [str(rules)],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": list(addresses)}]} for job, addresses in targets.items()
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration), "utf-8")
    with (folder / "prometheus.log").open("ab") as log:
        process = subprocess.Popen(
            [
                command,
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/prometheus-data",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            preexec_fn=die_with_parent,
        )
    prometheus = Prometheus(port)
    try:
        limit = time.monotonic() + START_SECONDS
        while not prometheus.ready():
            if process.poll() is not None or time.monotonic() > limit:
                raise RuntimeError(
                    f"Prometheus did not start:\n{(folder / 'prometheus.log').read_text('utf-8')[-3000:]}"
                )
            time.sleep(0.05)
        yield prometheus
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
