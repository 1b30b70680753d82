"""What tables of SQL Server have that stands in the way, or that the other engines do not have."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

from sqlalchemy import Row

from services.cli.doctor.finding import Finding, Urgency, check, must, note
from services.cli.doctor.mssql_asking import Asking
from services.kernel.catalogue import Table
from services.kernel.dialects.mssql.expressions import literal

UTF_8 = 65001
"""The code page of a collation whose varchar holds any Unicode character."""

ENDING = 10
"""A generator with less than one part in so many left is reported."""


class Keys(NamedTuple):
    limit: int
    """The greatest value of the type."""
    range: int
    """How many values an outlet should have for itself; 0: there is no room for ranges."""


KEYS = {
    "tinyint": Keys(2**8 - 1, 0),
    "smallint": Keys(2**15 - 1, 1_000),
    "int": Keys(2**31 - 1, 100_000_000),
    "bigint": Keys(2**63 - 1, 1_000_000_000_000),
}

LEAVE = "Leave it out of SUBAK_TABLES"

FLAGS: tuple[tuple[str, Urgency, str, str], ...] = (
    (
        "memory",
        Urgency.MUST,
        "It is memory-optimized, and takes no trigger but a natively compiled one, which could not do what "
        "Subak's does.",
        f"{LEAVE}, or make it a table on disk.",
    ),
    (
        "filetables",
        Urgency.MUST,
        "It is a FileTable: files come and go there that no image of a row can hold.",
        f"{LEAVE}.",
    ),
    (
        "graph",
        Urgency.MUST,
        "It is a node or an edge, whose hidden columns mean nothing at another outlet.",
        f"{LEAVE}.",
    ),
    (
        "column_sets",
        Urgency.MUST,
        "It is the column set of sparse columns: both together cannot be written.",
        f"Drop the column set (the sparse columns may stay), or: {LEAVE}.",
    ),
    (
        "encrypted",
        Urgency.MUST,
        "Always Encrypted: the trigger sees what only your clients can read, and Subak could not write it elsewhere.",
        f"Keep the column in another table, or: {LEAVE}.",
    ),
    (
        "masked",
        Urgency.MUST,
        "It is masked: the trigger reads with the rights of whoever writes the row, and would send the mask as "
        "its value.",
        "GRANT UNMASK to Subak's user and to every user who writes to the table, or drop the mask.",
    ),
    (
        "policies",
        Urgency.CHECK,
        "A security policy hides rows: Subak must see every one to decide what to do with a change.",
        "Let the policy's predicate pass Subak's user.",
    ),
    (
        "filestreams",
        Urgency.CHECK,
        "It is a FILESTREAM: each change of the row carries the whole file, and a write to the file alone may "
        "not be captured.",
        "Keep large files in a table of their own that is not synchronised.",
    ),
    (
        "replicated",
        Urgency.CHECK,
        "SQL Server's own replication publishes it.",
        "Where the subscriber is an outlet too, take the table out of one of both: what comes in twice is sent "
        "on twice.",
    ),
    (
        "merged",
        Urgency.CHECK,
        "Merge replication has its own triggers and its own conflicts on it.",
        "Take it out of the merge publication, or out of SUBAK_TABLES: two judges never agree.",
    ),
    (
        "change_tracking",
        Urgency.NOTE,
        "Change tracking sees what Subak applies here as any other change.",
        "Nothing, unless its reader sends rows to another outlet.",
    ),
    (
        "temporal",
        Urgency.NOTE,
        "It is system-versioned: each outlet keeps a history of its own. The period's columns do not travel.",
        "Leave the history table out of SUBAK_TABLES.",
    ),
)
"""Statement, urgency, what is so, what to do."""


def tables(asking: Asking) -> Iterator[Finding]:
    for name, urgency, what, todo in FLAGS:
        for row in asking.rows(name):
            if asking.table(row):
                yield Finding(urgency, name, _where(row), what, todo)
    yield from _identities(asking)
    yield from _sequences(asking)
    yield from _collations(asking)
    yield from _uniques(asking)
    yield from _cascades(asking)


def _where(row: Row[Any]) -> str:
    column = getattr(row, "column_name_", None)
    table = row.table_name_ if row.schema_name_.lower() == "dbo" else f"{row.schema_name_}.{row.table_name_}"
    return f"{table}.{column}" if column else str(table)


def _identities(asking: Asking) -> Iterator[Finding]:
    for row in asking.rows("identities"):
        table = asking.table(row)
        if table is None or not _tells_rows_apart(table, row.column_name_):
            continue
        keys = KEYS.get(row.type_name_) or Keys(10**row.digits - 1, 10 ** max(0, row.digits - 2))
        step = int(row.step)
        last = int(row.seed) - step if row.last_ is None else int(row.last_)
        size = keys.range if abs(step) == 1 else 0
        if abs(step) == 1 and abs(last) < (keys.range or keys.limit):
            yield _colliding(asking, row, table, keys, last)
        room, whole = _room(last, step, keys, size)
        if room * ENDING < whole:
            yield check(
                "keys_ending",
                _where(row),
                f"The generator stands at {last}; {room // abs(step)} values are left"
                + (f" of a range of {size}." if size else "."),
                "Give this outlet another range in time, or make the column a bigint at every outlet.",
            )


def _colliding(asking: Asking, row: Row[Any], table: Table, keys: Keys, last: int) -> Finding:
    name = literal(asking.dialect.relation(table))
    what = (
        f"Its IDENTITY stands at {last} and makes the same keys here as at every other outlet that began like this one."
    )
    if not keys.range:
        return must(
            "colliding_keys",
            _where(row),
            what,
            f"A {row.type_name_} has no room for ranges: make it an int, then look again.",
        )
    outlets = keys.limit // keys.range - 1
    return must(
        "colliding_keys",
        _where(row),
        what,
        f"Give each outlet a range of its own, this one too: DBCC CHECKIDENT ({name}, RESEED, {keys.range}) at "
        "outlet 1, "
        f"{2 * keys.range} at outlet 2, and so on up to outlet {outlets}. Rows that are there keep their keys.",
    )


def _room(last: int, step: int, keys: Keys, size: int) -> tuple[int, int]:
    """(values that are left, of how many), within the outlet's range and within the type."""
    whole = keys.limit
    room = keys.limit - last if step > 0 else keys.limit + last
    if size:
        within = size - last % size if step > 0 else last % size
        if within * whole < room * size:
            return within, size
    return room, whole


def _tells_rows_apart(table: Table, column: str) -> bool:
    return column in table.key or any(column in unique for unique in table.uniques)


def _sequences(asking: Asking) -> Iterator[Finding]:
    for row in asking.rows("defaults"):
        table = asking.table(row)
        if table and row.column_name_ in table.key and "next" in row.definition.lower():
            yield check(
                "colliding_keys",
                _where(row),
                f"Its default, {row.definition}, makes the same keys here as at every other outlet whose sequence "
                "began alike.",
                "ALTER SEQUENCE ... RESTART WITH this outlet's number times 1,000,000,000 (in an int: 100,000,000): "
                "two rows of one key are taken for one row.",
            )


def _collations(asking: Asking) -> Iterator[Finding]:
    ignoring_case = []
    narrow: dict[str, list[str]] = defaultdict(list)
    for row in asking.rows("collations"):
        table = asking.table(row)
        if table is None:
            continue
        if row.type_name_ in ("char", "varchar") and row.code_page != UTF_8:
            narrow[table.name].append(f"{row.column_name_} ({row.collation_})")
        if row.column_name_ not in table.key:
            continue
        if _equal(asking, "a", "A", row.collation_):
            ignoring_case.append(_where(row))
        if _equal(asking, "e", "é", row.collation_):
            yield check(
                "key_accents",
                _where(row),
                f"Under {row.collation_} 'e' and 'é' are one key: where an outlet keeps them apart, the second is "
                "quarantined here.",
                "Give the column a collation that tells accents apart (..._AS), unless such keys cannot be.",
            )
    if ignoring_case:
        yield note(
            "key_case",
            ", ".join(ignoring_case),
            "Keys that differ in case only, or in trailing blanks, are one here: of two that an outlet keeps apart, "
            "as SQLite does, the second is quarantined.",
        )
    for name, columns in narrow.items():
        yield check(
            "code_page",
            name,
            f"Of {', '.join(columns)} a char or varchar holds the characters of its code page only: a row that "
            "comes with others "
            "(emoji, another script) is quarantined here.",
            "Make it nchar or nvarchar, unless no outlet can have such a text.",
        )


def _equal(asking: Asking, one: str, other: str, collation: str) -> bool:
    """As the server compares, whatever the collation's name says."""
    name = "".join(letter for letter in collation if letter.isalnum() or letter == "_")
    query = f"SELECT CASE WHEN {literal(one)} = {literal(other)} COLLATE {name} THEN 1 ELSE 0 END"
    return asking.connection.exec_driver_sql(query).scalar() == 1


def _uniques(asking: Asking) -> Iterator[Finding]:
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in asking.rows("nullable_uniques"):
        if table := asking.table(row):
            found[asking.dialect.relation(table), row.index_name_].append(row.column_name_)
    for (table_name, index), columns in found.items():
        names = [asking.dialect.identifier(column) for column in columns]
        yield check(
            "unique_nulls",
            index,
            f"In this unique index of {table_name}, NULL is a value like others, and one row may have it "
            f"({', '.join(columns)}); "
            "the other engines let many: the second that comes in is quarantined here.",
            f"In its place: CREATE UNIQUE INDEX ... ON {table_name} ({', '.join(names)}) "
            f"WHERE {' AND '.join(f'{name} IS NOT NULL' for name in names)}; who writes then needs "
            "QUOTED_IDENTIFIER and "
            "ARITHABORT on, as every driver of today has them.",
        )


def _cascades(asking: Asking) -> Iterator[Finding]:
    found = [
        f"{table.name} ({', '.join(key.columns)})"
        for table in asking.catalogue.tables
        for key in table.foreign_keys
        if key.cascades
    ]
    if found:
        yield note(
            "cascades",
            ", ".join(found),
            "What these foreign keys cascade to is captured row by row, and travels as rows of the same transaction.",
        )
