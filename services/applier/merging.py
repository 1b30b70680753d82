"""What a row comes to when a change meets it under a rule other than `row`: column by column, and sums. Pure.

A row is a register per column (the greater stamp wins, as in deciding.py), a sum per delta column, and one more register for whether it is
there: the greatest stamp of all decides that. A deleted row goes on taking part: its tombstone holds the image it would have. So the outcome
is the same in whatever order changes come, since a maximum and a sum do not depend on it; that each change comes once is the ledger's care.

The sums are an operation-based counter, the rest a last-writer-wins map (Shapiro et al., 2011, "Conflict-free Replicated Data Types").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

from services.applier.stamping import ColumnStamps, claimed
from services.kernel.catalogue import Table, folded
from services.kernel.change import Change, Op
from services.kernel.errors import PermanentError
from services.kernel.policy import Rule
from services.kernel.values import Image, Value, canonical


@dataclass(frozen=True)
class Merged:
    """`image`: the row, or what its tombstone holds. `won`, `lost`: whether the change wrote some column, and whether some column
    that it wrote had been written later. `over`: whether it wrote over what its author did not know. `added`: what it contributed,
    by delta column."""

    image: Image
    stamps: ColumnStamps
    won: bool
    lost: bool
    over: bool
    added: Mapping[str, Decimal]


def merge(
    change: Change,
    before: Image | None,
    after: Image | None,
    table: Table,
    rule: Rule,
    here: Image | None,
    stamps: ColumnStamps,
) -> Merged:
    """`here`: the row as it stands, or what its tombstone holds; None where there never was one.

    Raises PermanentError `value` when a delta column holds no number.
    """
    columns = claimed(change.op, before, after, rule, table)
    source = (after if after is not None else before) or {}
    added = contributions(change.op, before, after, rule)
    if here is None:
        # Nothing to add to. What an insert contributed is its value less a tombstone's; that one was purged here, with that value.
        image, winning = dict(source), columns
        stamps = ColumnStamps(change.base)
    else:
        winning = [name for name in columns if change.stamp > stamps.at(name)]
        image = here | {name: source[name] for name in winning}
        for name, amount in added.items():
            image[name] = _sum(table, name, image.get(name), amount)
    key = {folded(name) for name in table.key}
    whole = set(image) <= key | rule.delta | set(winning)
    return Merged(
        image,
        ColumnStamps(change.stamp) if whole else stamps.written(winning, change.stamp),
        bool(winning),
        len(winning) < len(columns),
        any(stamps.at(name) > change.base for name in winning),
        added,
    )


def contributions(op: Op, before: Image | None, after: Image | None, rule: Rule) -> dict[str, Decimal]:
    """What a change adds to each delta column: an insert its value, less that of the tombstone it replaced; an update the difference;
    a delete nothing, since the tombstone keeps the value."""
    if op is Op.DELETE or after is None:
        return {}
    before = before or {}
    if op is Op.UPDATE:
        names = [name for name in rule.delta if name in after and name in before]
    else:
        names = [name for name in rule.delta if name in after]
    return {name: _number(after[name]) - _number(before.get(name)) for name in sorted(names)}


def _sum(table: Table, name: str, value: Value, amount: Decimal) -> Value:
    return canonical(table.column(name), format(_number(value) + amount, "f"))


def _number(value: Value) -> Decimal:
    if value is None:
        return Decimal(0)
    if isinstance(value, bool | bytes | float):
        raise PermanentError("value", "A delta column holds what is no exact number.", "Correct the row at its origin.")
    try:
        return Decimal(value)
    except ArithmeticError as error:
        raise PermanentError(
            "value", "A delta column holds what is no number.", "Correct the row at its origin."
        ) from error
