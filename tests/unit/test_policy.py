"""Conflict rules by generation: which of them a change is decided by."""

from __future__ import annotations

import pytest

from services.kernel.errors import PermanentError
from services.kernel.policy import ROW, Given, Policies, parse

BY_COLUMN = parse('[tables.Stock]\nrule = "column"')
DELTA = parse('[tables.stock]\ndelta = ["On_Hand"]\nminimum = { on_hand = 0 }')
KNOWN = Policies([Given(20, DELTA, 7), Given(10, BY_COLUMN, 3)])


@pytest.mark.parametrize(
    ("generation", "rule"),
    [
        (0, ROW),
        (10, BY_COLUMN.of("stock")),
        (20, DELTA.of("STOCK")),
        # Never heard of here: given out by a hub that was put back, and gave the same file out again.
        (15, DELTA.of("stock")),
        (5, BY_COLUMN.of("stock")),
        (99, DELTA.of("stock")),
    ],
)
def test_a_change_is_decided_by_the_rules_it_was_made_under(generation: int, rule: object) -> None:
    assert KNOWN.rule(generation, "stock") == rule


def test_before_any_rules_the_later_change_has_the_row() -> None:
    assert Policies().rule(5, "stock") == ROW


@pytest.mark.parametrize(("change", "generation"), [(3, 0), (4, 10), (7, 10), (8, 20)])
def test_a_change_of_ones_own_is_made_under_what_was_taken_up_before(change: int, generation: int) -> None:
    assert KNOWN.generation_of(change) == generation


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("deep = " + "[" * 3000 + "]" * 3000, "not TOML"),
        ('[tables.stock]\ndelta = ["a"]\nminimum = { a = 1, A = 2 }', "named twice"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, fault: str) -> None:
    with pytest.raises(PermanentError, match=fault):
        parse(text)
