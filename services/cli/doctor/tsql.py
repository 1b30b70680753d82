"""What a trigger written in T-SQL does, as far as its text tells. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from services.cli.doctor.application_triggers import Effects
from services.kernel.catalogue import folded
from services.kernel.dialects.mssql.catalogue import MAIN_SCHEMA, called

_NOISE = re.compile(r"/\*.*?\*/|--[^\n]*|'(?:[^']|'')*'", re.DOTALL)
_PART = r"(?:\[(?:[^\]]|\]\])+\]|\"[^\"]+\"|[@#\w$]+)"
_NAME = rf"{_PART}(?:\s*\.\s*(?:{_PART})?)*"
_HEADER = re.compile(
    r"\b(?:AFTER|FOR|INSTEAD\s+OF)\s+(?:INSERT|UPDATE|DELETE)(?:\s*,\s*(?:INSERT|UPDATE|DELETE))*"
    r"(?:\s+WITH\s+APPEND)?(?:\s+NOT\s+FOR\s+REPLICATION)?\s+AS\b",
    re.IGNORECASE,
)
_TOP = r"(?:TOP\s*\([^)]*\)\s*(?:PERCENT\s+)?)?"
_WRITE = re.compile(
    rf"\bINTO\s+(?P<into>{_NAME})"
    rf"|\b(?:INSERT|MERGE)\s+{_TOP}(?!(?:INTO|TOP)\b)(?P<insert>{_NAME})"
    rf"|\bUPDATE\s+{_TOP}(?P<update>{_NAME})(?:\s+WITH\s*\([^)]*\))?\s+SET\b"
    rf"|\bDELETE\s+{_TOP}(?:FROM\s+)?(?P<delete>{_NAME})",
    re.IGNORECASE,
)
_SOURCE = re.compile(rf"(?:\bFROM|\bJOIN|,)\s+(?P<table>{_NAME})\s+(?:AS\s+)?(?P<alias>{_PART})", re.IGNORECASE)
_NEXT = re.compile(r";|\b(?:INSERT|UPDATE|DELETE|MERGE|EXEC|EXECUTE|BEGIN|END)\b", re.IGNORECASE)
_CALL = re.compile(rf"\bEXEC(?:UTE)?(?:\s+(?:@\w+\s*=\s*)?({_NAME})|\s*\()", re.IGNORECASE)


def effects(definition: str, schema: str) -> Effects:
    """`schema`: the trigger's own, where names without one are looked for first."""
    text = _NOISE.sub(" ", definition)
    header = _HEADER.search(text)
    body = text[header.end() :] if header else text
    found = dict.fromkeys(
        name for match in _WRITE.finditer(body) for table in _written(match, body) for name in _names(table, schema)
    )
    calls = sorted({".".join(_parts(name)) or "dynamic SQL" for name in _CALL.findall(body)})
    return Effects(text, tuple(found), False, tuple(calls))


def _written(match: re.Match[str], body: str) -> Iterator[str]:
    """The table that is written, or those for which the name stands as an alias."""
    name = match["into"] or match["insert"] or match["update"] or match["delete"]
    if match["update"] or match["delete"]:
        following = _NEXT.search(body, match.end())
        rest = body[match.start() : following.start() if following else len(body)]
        tables = [source["table"] for source in _SOURCE.finditer(rest) if _same(source["alias"], name)]
        if tables:
            yield from tables
            return
    yield name


def _same(one: str, other: str) -> bool:
    return folded(".".join(_parts(one))) == folded(".".join(_parts(other)))


def _parts(name: str) -> list[str]:
    return [part[1:-1] if part[0] in '["' else part for part in re.findall(_PART, name)]


def _names(name: str, schema: str) -> Iterator[str]:
    """As the catalogue calls the table: `orders` in dbo, `sales.orders` elsewhere."""
    parts = _parts(name)
    given = parts[-2] if len(parts) > 1 and ".." not in re.sub(r"\s", "", name) else None
    for place in [given] if given else dict.fromkeys((schema, MAIN_SCHEMA)):
        yield called(place, parts[-1])
