"""A change in words, without any database's catalogue: what the hub can say of what passed through it."""

from __future__ import annotations

import json
from typing import Any

from services.kernel.change import Change, Op

VALUE_CHARACTERS = 60


def words(change: Change) -> str:
    """`product 17: price 12.00 → 13.00`, `product 17 added: name …`, `product 17 deleted`."""
    before, after = _row(change.before), _row(change.after)
    row = f"{change.table} {change.key}"
    if change.op is Op.DELETE:
        return f"{row} gets another key" if change.paired else f"{row} deleted"
    if change.op is Op.INSERT:
        values = ", ".join(f"{name} {_short(value)}" for name, value in after.items())
        return f"{row} {'is the new key' if change.paired else 'added'}: {values}"
    changed = [
        f"{name} {_short(before.get(name))} → {_short(value)}"
        for name, value in after.items()
        if value != before.get(name)
    ]
    return f"{row}: {', '.join(changed) or 'the same again'}"


def _row(image: str | None) -> dict[str, Any]:
    return json.loads(image) if image is not None else {}


def _short(value: Any) -> str:
    text = "NULL" if value is None else str(value)
    return text if len(text) <= VALUE_CHARACTERS else f"{text[: VALUE_CHARACTERS - 1]}…"
