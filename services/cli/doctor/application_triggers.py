"""What the application's own triggers do, as far as their text tells. Pure.

They run at every outlet, for rows that Subak applies too. What one writes to a synchronised table is captured where the
application caused it, and sent: at the other outlets it would happen twice, by the trigger there and as it arrives.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from services.cli.doctor.finding import Finding, check, must
from services.kernel.catalogue import Catalogue, folded

_NOISE = re.compile(r"/\*.*?\*/|--[^\n]*|\#[^\n]*|'(?:[^'\\]|\\.|'')*'", re.DOTALL)
_NAME = r"(?:[`\"\[]?\w+[`\"\]]?\s*\.\s*)?[`\"\[]?(\w+)[`\"\]]?"
_WRITE = re.compile(
    rf"\b(?:(?:INSERT|REPLACE)\s+(?:(?:OR\s+\w+|IGNORE|LOW_PRIORITY|DELAYED)\s+)*(?:INTO\s+)?(?!ON\b){_NAME}"
    rf"|UPDATE\s+(?:OR\s+\w+\s+|LOW_PRIORITY\s+|IGNORE\s+)*{_NAME}(?:\s+(?:AS\s+)?\w+)?\s+SET\b"
    rf"|DELETE\s+(?:LOW_PRIORITY\s+|QUICK\s+|IGNORE\s+)*FROM\s+{_NAME})",
    re.IGNORECASE,
)
_SET_NEW = re.compile(r"\bSET\s+NEW\s*\.", re.IGNORECASE)
_CALL = re.compile(rf"\bCALL\s+{_NAME}", re.IGNORECASE)


@dataclass(frozen=True)
class ApplicationTrigger:
    name: str
    table: str
    body: str


@dataclass(frozen=True)
class Effects:
    """What is read out of a trigger's text."""

    text: str
    """Without comments and literals."""
    written: tuple[str, ...]
    """The tables that it inserts into, updates or deletes from."""
    rewrites: bool
    """Whether it changes the row that is being written."""
    calls: tuple[str, ...]


def findings(
    trigger: ApplicationTrigger, catalogue: Catalogue, mark: str, guard: str, does: Effects | None = None
) -> Iterator[Finding]:
    """`mark`: what a guarded trigger mentions; `guard`: the line to add to one that is not."""
    does = does or effects(trigger.body)
    if catalogue.table(trigger.table) is None or folded(mark) in folded(does.text):
        return
    written = [name for name in does.written if catalogue.table(name)]
    if written:
        yield must(
            "acts_twice",
            trigger.name,
            f"This trigger of {trigger.table} writes to {', '.join(written)}, which is synchronised: "
            "at the other outlets its effect would come twice.",
            guard,
        )
    if does.rewrites:
        yield check(
            "rewrites_row",
            trigger.name,
            f"This trigger changes rows of {trigger.table} as they are written, those from other outlets too.",
            f"If it does not give the same value everywhere (a time, a user, a number): {guard}",
        )
    for procedure in does.calls:
        yield check(
            "calls",
            trigger.name,
            f"This trigger of {trigger.table} calls {procedure}, whose writes are not looked into.",
            f"If {procedure} writes to a synchronised table: {guard}",
        )


def effects(body: str) -> Effects:
    """Of a trigger in the words of MySQL and SQLite."""
    text = _NOISE.sub(" ", body)
    calls = sorted({name for name in _CALL.findall(text) if name})
    return Effects(text, tuple(writes(body)), _SET_NEW.search(text) is not None, tuple(calls))


def writes(body: str) -> list[str]:
    """The tables that a trigger's text inserts into, updates or deletes from, each once, as it spells them."""
    found: dict[str, str] = {}
    for match in _WRITE.finditer(_NOISE.sub(" ", body)):
        name = next(group for group in match.groups() if group)
        found.setdefault(folded(name), name)
    return list(found.values())
