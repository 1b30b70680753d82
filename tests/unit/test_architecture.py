"""What services/ARCHITECTURE.md names is there: files, and the test of each fault."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "services/ARCHITECTURE.md").read_text("utf-8")
FAULTS = re.findall(r"`(\w+/test_\w+\.py)::(test_\w+)`", TEXT)


def test_every_fault_has_a_test() -> None:
    rows = TEXT.partition("## What can go wrong")[2].partition("\n## ")[0].splitlines()
    table = [row for row in rows if row.startswith("| ")][1:]
    assert len(table) > 20
    assert [row for row in table if "::test_" not in row] == []


@pytest.mark.parametrize(("file", "name"), FAULTS)
def test_the_test_is_there(file: str, name: str) -> None:
    assert f"def {name}(" in (ROOT / "tests" / file).read_text("utf-8")
