"""`python -m tests.mutants [words of a name]`: every mutant must be found by the tests that it names; exit code 1 when one survives.

Each is tried on a copy of the tree of its own, so that this one is never touched. First the tests must pass on a copy
that nobody has changed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.mutants.catalogue import MUTANTS
from tests.mutants.mutant import Mutant, StaleMutantError
from tests.stack.network import REPOSITORY

LEFT_OUT = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__")
TEST_SECONDS = 120
"""A test that a mutant keeps waiting has noticed it."""

WHOLE_SECONDS = 1_200
COLUMNS = "250"
"""So wide is pytest's summary, that it may tell the reason of a failure."""

FAILED = 1
"""pytest's exit code when tests ran and some failed; any other says nothing about the mutant."""


def _copy(folder: Path) -> Path:
    return Path(shutil.copytree(REPOSITORY, folder / "tree", ignore=LEFT_OUT))


def _pytest(tree: Path, tests: Sequence[str]) -> tuple[int, str]:
    """The tests of that tree, with its services: its folder comes before what is installed, in every process."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--tb=short"]
    result = subprocess.run(
        [*command, f"--timeout={TEST_SECONDS}", *tests],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "COLUMNS": COLUMNS},
        capture_output=True,
        text=True,
        timeout=WHOLE_SECONDS,
        check=False,
    )
    return result.returncode, result.stdout + result.stderr


def _unmutated(mutants: Sequence[Mutant]) -> None:
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    with tempfile.TemporaryDirectory(prefix="subak-mutants-") as folder:
        code, output = _pytest(_copy(Path(folder)), tests)
    if code:
        raise SystemExit(f"{output[-6000:]}\nThe tests must pass before anything is mutated.")


def _found(mutant: Mutant) -> tuple[bool, str]:
    """Whether its tests noticed it, and what they said."""
    with tempfile.TemporaryDirectory(prefix="subak-mutants-") as folder:
        tree = _copy(Path(folder))
        (tree / mutant.file).write_text(mutant.applied(tree), "utf-8")
        code, output = _pytest(tree, mutant.tests)
    return code == FAILED, output


def _reason(output: str) -> str:
    """pytest's own word on the first failure."""
    failed = [line for line in output.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return failed[0].partition(" - ")[2][:90] if failed else ""


def main() -> int:
    wanted = " ".join(sys.argv[1:]).lower()
    chosen = [mutant for mutant in MUTANTS if wanted in mutant.name.lower()]
    tried = [mutant for mutant in chosen if not mutant.needs or os.environ.get(mutant.needs)]
    try:
        for mutant in chosen:
            mutant.applied()
    except StaleMutantError as error:
        print(error)
        return 1
    if tried:  # without a name pytest would run all there are
        _unmutated(tried)
    print(f"the tests of {len(tried)} mutants pass on the tree as it is", flush=True)
    survived = 0
    for mutant in chosen:
        if mutant not in tried:
            print(f"not tried  {mutant.name}: {mutant.needs} is not set", flush=True)
            continue
        begun = time.monotonic()
        found, output = _found(mutant)
        took = time.monotonic() - begun
        print(f"{'found' if found else 'SURVIVED':9}  {took:4.0f} s  {mutant.name}  [{_reason(output)}]", flush=True)
        if not found:
            survived += 1
            print(output[-3000:], flush=True)
    print(f"{len(tried) - survived} of {len(tried)} found, {len(chosen) - len(tried)} not tried")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
