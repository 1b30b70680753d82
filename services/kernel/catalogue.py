"""What an outlet's schema looks like, in words that are the same for every engine. Pure: the dialects fill it in.

Names keep the case of the local catalogue; they are matched to a peer's without regard to case (`folded`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    """The canonical type of a column: it fixes the column's canonical JSON value (values.py)."""

    INTEGER = "integer"
    DECIMAL = "decimal"
    FLOAT = "float"
    BOOLEAN = "boolean"
    TEXT = "text"
    CHAR = "char"  # fixed length: trailing blanks do not count
    BINARY = "binary"
    DATE = "date"
    TIME = "time"
    DATETIME = "datetime"
    JSON = "json"
    UUID = "uuid"


@dataclass(frozen=True)
class Column:
    name: str
    kind: Kind
    nullable: bool = True
    declared: str = ""
    """The type as the engine spells it, for messages and for what only the dialect needs."""
    precision: int | None = None
    """Digits of a decimal; fractional-second digits of a time or datetime."""
    scale: int | None = None
    generated: bool = False
    """The engine makes the value when none is given (AUTO_INCREMENT, rowid): the table's key may be a generated key."""
    immutable: bool = False
    """Its value can be given when the row is inserted, and never changed (SQL Server's IDENTITY)."""
    computed: bool = False
    """Derived from other columns: never captured, never written."""
    single: bool = False
    """A float of single precision."""
    loose: bool = False
    """The engine lets it hold any value, whatever its type says (SQLite but for STRICT tables)."""


@dataclass(frozen=True)
class ForeignKey:
    """`columns` of this table refer to `parent_columns` (in the same order) of table `parent`."""

    name: str
    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]
    on_delete: str = "NO ACTION"
    on_update: str = "NO ACTION"

    @property
    def cascades(self) -> bool:
        return {self.on_delete, self.on_update} & {"CASCADE", "SET NULL", "SET DEFAULT"} != set()


@dataclass(frozen=True)
class Table:
    name: str
    """Its name for all outlets. On SQL Server a table outside of dbo is called `schema.table`."""
    columns: tuple[Column, ...]
    """All columns that are carried, key columns included, in the table's order; computed ones are left out."""
    key: tuple[str, ...]
    """The primary key's columns, ordered by folded name, so that every outlet builds the same row key."""
    foreign_keys: tuple[ForeignKey, ...] = ()
    uniques: tuple[tuple[str, ...], ...] = ()
    """Column sets of unique constraints and unique indexes other than the primary key."""
    schema: str | None = None
    """The schema it is in, where the engine has several in one database."""

    @property
    def bare_name(self) -> str:
        """Its name within its schema."""
        return self.name.removeprefix(f"{self.schema}.")

    def column(self, name: str) -> Column:
        """Raises KeyError when there is none of that (folded) name."""
        return self._by_name[folded(name)]

    def has(self, name: str) -> bool:
        return folded(name) in self._by_name

    @property
    def key_columns(self) -> tuple[Column, ...]:
        return tuple(self.column(name) for name in self.key)

    @property
    def generated_key(self) -> bool:
        return any(column.generated for column in self.key_columns)

    @property
    def immutable_key(self) -> bool:
        return any(column.immutable for column in self.key_columns)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {folded(column.name): column for column in self.columns})

    _by_name: dict[str, Column] = field(init=False, repr=False, compare=False, default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """A table (or one column of it) that cannot be synchronised: why, and what to do."""

    table: str
    column: str | None
    code: str
    what: str
    todo: str


@dataclass(frozen=True)
class Catalogue:
    """The synchronised tables of one outlet, and what was refused of those asked for."""

    tables: tuple[Table, ...]
    refusals: tuple[Refusal, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {folded(table.name): table for table in self.tables})

    def table(self, name: str) -> Table | None:
        return self._by_name.get(folded(name))

    def children(self, parent: Table) -> Iterator[tuple[Table, ForeignKey]]:
        """Every foreign key of a synchronised table that refers to `parent`."""
        for table in self.tables:
            for foreign_key in table.foreign_keys:
                if folded(foreign_key.parent) == folded(parent.name):
                    yield table, foreign_key

    _by_name: dict[str, Table] = field(init=False, repr=False, compare=False, default_factory=dict)


def folded(name: str) -> str:
    """The form in which two engines' names of one thing are equal."""
    return name.casefold()


FINGERPRINT_DIGITS = 16
"""Hexadecimal: two tables of one name that differ have one fingerprint once in 2**64 times."""


def fingerprints(catalogue: Catalogue) -> dict[str, str]:
    """Folded name of each synchronised table to what tells whether two outlets' tables have the same columns and the same key.

    Names count, in any order and case; types do not, since every engine has its own.
    """
    return {folded(table.name): _fingerprint(table) for table in catalogue.tables}


def _fingerprint(table: Table) -> str:
    columns = sorted(folded(column.name) for column in table.columns)
    key = sorted(folded(name) for name in table.key)
    text = json.dumps([columns, key], ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:FINGERPRINT_DIGITS]
