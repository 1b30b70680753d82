"""The README's `make` commands, typed; each as small as it can be made by what it takes. `make test` and `make stack-test`: .ci/run types them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.stack.network import REPOSITORY

LIMIT = 240.0

TYPED = {
    "setup": ("make setup", ""),
    "demo": ('make demo ARGS="--outlets 2 --seconds 4"', "identical: 5 tables"),
    "chaos": ("make chaos SECONDS=6 SEED=1 ENGINES=sqlite", "all is well"),
    "mutants": ('make mutants ONLY="a process started by a test runs the mutated tree"', "1 of 1 found"),
    "bench": ('make bench ARGS="--scale 0.002 --output {folder}/bench.json"', "Written to"),
}
IN_CI = {"test", "stack-test", "check"}


def types(line: str) -> str:
    """In this checkout, with the packages that this very run has."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SUBAK_", "PYTEST_"))}
    done = subprocess.run(
        ["bash", "-euc", line],
        env={**environment, "VENV": sys.prefix, "MAKEFLAGS": "-e", "COLUMNS": "200"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert done.returncode == 0, f"{line}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.mark.parametrize("target", TYPED)
def test_it_does_what_the_readme_says(target: str, tmp_path: Path) -> None:
    line, answer = TYPED[target]
    printed = types(line.format(folder=tmp_path))
    assert answer in printed, printed
    if target == "bench":
        assert json.loads((tmp_path / "bench.json").read_text())["figures"]


def test_the_whole_check_runs_the_rest() -> None:
    script = (REPOSITORY / ".ci" / "run").read_text("utf-8")
    assert {line.split()[-1] for line in script.splitlines() if "make " in line and not line.startswith("#")} >= IN_CI


def test_what_make_setup_leaves_is_activated_and_has_the_command() -> None:
    assert "Subak" in types(f"source {sys.prefix}/bin/activate\nsubak about")
