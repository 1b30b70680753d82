"""Random writes over any schema, read from the live databases; each outlet's writes come from one seed.

An application that knows nothing of Subak: it inserts, updates, deletes, re-inserts, changes keys, rolls back, and goes
on when its own database refuses a statement. New rows of a table with a generated key get explicit keys in a range of
the outlet's own, as the design asks of an application; unique values are its own too unless `collide` says otherwise.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pyodbc
from sqlalchemy import Connection, Engine, MetaData, Table, UniqueConstraint, and_, select, types
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from services.kernel.dialects.mssql.errors import number_of
from tests.stack.application import application_engine
from tests.stack.reflecting import reflect

KEY_RANGE = 10_000_000
"""Generated keys of outlet n (from 1) start at n times this: far from the keys of any loaded data."""

KNOWN_KEYS = 4000
"""Keys of a table that a writer keeps in mind to choose from; enough to meet the other outlets' writes often."""

DEADLOCK = {("mysql", 1213), ("mssql", 1205)}
RETRY = {("mysql", 1205), ("mysql", 1020), ("mssql", 1222), ("mssql", 3960)}
"""Lock wait timeout; 'record has changed since last read' of snapshot isolation."""
REFUSED = {("mysql", 3819), ("mysql", 4025)}
"""A CHECK of MySQL's, of MariaDB's: not told as an integrity error."""

_TEXTS = (
    "",
    "padi",
    'O\'Brien "quoted" \\back\\slash',
    "trailing blanks   ",
    "  leading",
    "日本語テキスト",
    "naïve Ångström",
    "🌾🏝️ subak",
    "100% _under_ ; -- DROP",
    "line\nbreak\ttab",
    "null",
    "0",
)


@dataclass
class _Known:
    """A table as every outlet can hold it: the least that any of them allows."""

    table: Table
    lengths: dict[str, int]
    fractions: dict[str, int]
    plane0: set[str]
    """Columns that some outlet keeps in three-byte UTF-8 (MySQL's NVARCHAR): no emoji."""
    uniques: set[str]
    generated_key: str | None
    keys: list[tuple[Any, ...]] = field(default_factory=list)
    gone: list[dict[str, Any]] = field(default_factory=list)
    """Rows of this outlet's own range that it deleted, to be inserted again."""


def _cut(words: str, length: int) -> str:
    """SQL Server counts what is outside of the Basic Multilingual Plane twice."""
    while len(words.encode("utf-16-le")) > 2 * length:
        words = words[:-1]
    return words


class Writer:
    """One till of one outlet. `step` commits (or rolls back) one transaction of random statements.

    `number`: the outlet's, from 1. `peers`: URLs of the other outlets, whose limits on lengths and fractions count too.
    """

    def __init__(
        self,
        url: URL,
        number: int,
        seed: int | str,
        *,
        peers: Sequence[URL] = (),
        tables: set[str] | None = None,
        collide: float = 0.0,
        key_changes: bool = True,
        statements: int = 5,
    ) -> None:
        self.random = random.Random(f"{seed}-{number}")
        self.engine: Engine = application_engine(url)
        self.counts: Counter[str] = Counter()
        self.deadlocks = 0
        self._url = url
        self._number = number
        self._collide = collide
        self._key_changes = key_changes
        self._statements = statements
        self._next = KEY_RANGE * number + self.random.randrange(1000)
        metadata, others = reflect(url), [reflect(peer) for peer in peers]
        self._tables = [
            _known(table, [_table(other, table.name) for other in others])
            for table in metadata.sorted_tables
            if table.primary_key.columns and (tables is None or table.name.lower() in tables)
        ]
        self._by_name = {known.table.name.lower(): known for known in self._tables}
        self.refresh()

    def close(self) -> None:
        self.engine.dispose()

    def refresh(self) -> None:
        """Learns the keys that are there now, those of other outlets included."""
        with self.engine.begin() as connection:
            for known in self._tables:
                keys = [tuple(row) for row in connection.execute(select(*known.table.primary_key.columns))]
                self.random.shuffle(keys)
                known.keys = keys[:KNOWN_KEYS]

    def run(self, transactions: int) -> None:
        for count in range(transactions):
            if count % 25 == 24:
                self.refresh()
            self.step()

    def step(self) -> None:
        try:
            with self.engine.connect() as connection, connection.begin() as transaction:
                for _ in range(self.random.randint(1, self._statements)):
                    self._statement(connection)
                if self.random.random() < 0.07:
                    transaction.rollback()
                    self.counts["rolled back"] += 1
                else:
                    self.counts["transactions"] += 1
        except DBAPIError as error:
            if _code(error) in DEADLOCK:
                self.deadlocks += 1
            elif _code(error) not in RETRY:
                raise
            self.counts["given up"] += 1

    def _statement(self, connection: Connection) -> None:
        known = self.random.choice(self._tables)
        choice = self.random.random()
        if choice < 0.35 or not known.keys:
            action, name = self._insert, "insert"
        elif choice < 0.75:
            action, name = self._update, "update"
        elif choice < 0.92:
            action, name = self._delete, "delete"
        elif choice < 0.97 or not self._key_changes:
            action, name = self._insert_again, "re-insert"
        else:
            action, name = self._change_key, "key change"
        try:
            self.counts[name] += action(connection, known)
        except IntegrityError:
            self.counts["refused"] += (
                1  # the application's own database said no: another till, or another outlet, was first
            )
        except DBAPIError as error:
            if _code(error) in REFUSED:
                self.counts["refused"] += 1
                return
            if _code(error) in DEADLOCK | RETRY or isinstance(error, OperationalError):
                raise
            raise AssertionError(f"{known.table.name}: {name} was not accepted: {error}") from error

    def _insert(self, connection: Connection, known: _Known) -> int:
        row = self._row(connection, known, known.table.columns.keys())
        if row is None:
            return 0
        connection.execute(known.table.insert(), row)
        known.keys.append(tuple(row[column.name] for column in known.table.primary_key.columns))
        return 1

    def _update(self, connection: Connection, known: _Known) -> int:
        names = [column.name for column in known.table.columns if not column.primary_key and column.computed is None]
        if not names:
            return 0
        chosen = self.random.sample(names, self.random.randint(1, min(3, len(names))))
        row = self._row(connection, known, chosen)
        if row is None:
            return 0
        key = self.random.choice(known.keys)
        return connection.execute(known.table.update().where(_is(known.table, key)).values(row)).rowcount

    def _delete(self, connection: Connection, known: _Known) -> int:
        key = self.random.choice(known.keys)
        found = connection.execute(select(known.table).where(_is(known.table, key))).mappings().first()
        if found is None:
            known.keys.remove(key)
            return 0
        count = connection.execute(known.table.delete().where(_is(known.table, key))).rowcount
        known.keys.remove(key)
        if self._mine(known, key):
            known.gone.append(dict(found))
        return count

    def _insert_again(self, connection: Connection, known: _Known) -> int:
        if not known.gone:
            return 0
        row = known.gone.pop(self.random.randrange(len(known.gone)))
        writable = {c.name: row[c.name] for c in known.table.columns if c.computed is None}
        connection.execute(known.table.insert(), writable)
        known.keys.append(tuple(row[column.name] for column in known.table.primary_key.columns))
        return 1

    def _change_key(self, connection: Connection, known: _Known) -> int:
        """Only rows of this outlet's own range: two outlets that rename one row make two rows of it, on any system."""
        mine = [key for key in known.keys if self._mine(known, key)]
        if not mine or known.generated_key is None or known.table.columns[known.generated_key].identity is not None:
            return 0
        key = self.random.choice(mine)
        new = {known.generated_key: self._new_key()}
        count = connection.execute(known.table.update().where(_is(known.table, key)).values(new)).rowcount
        known.keys.remove(key)
        if count:
            known.keys.append((new[known.generated_key],))
        return count

    def _mine(self, known: _Known, key: tuple[Any, ...]) -> bool:
        return known.generated_key is not None and key[0] // KEY_RANGE == self._number

    def _new_key(self) -> int:
        self._next += 1
        return self._next

    def _row(self, connection: Connection, known: _Known, names: Sequence[str]) -> dict[str, Any] | None:
        """None when a parent is needed and there is none."""
        row: dict[str, Any] = {}
        wanted = set(names)
        for constraint in known.table.foreign_key_constraints:
            columns = [element.parent for element in constraint.elements]
            if not wanted & {column.name for column in columns}:
                continue
            parent = self._by_name.get(constraint.referred_table.name.lower())
            targets = [element.column.name for element in constraint.elements]
            optional = all(column.nullable for column in columns)
            if optional and self.random.random() < 0.2:
                row |= {column.name: None for column in columns}
            elif parent is None or not parent.keys:
                if not optional:
                    return None
                row |= {column.name: None for column in columns}
            else:
                key = dict(zip(parent.table.primary_key.columns.keys(), self.random.choice(parent.keys), strict=True))
                row |= {c.name: key[target] for c, target in zip(columns, targets, strict=True) if target in key}
        for name in names:
            column = known.table.columns[name]
            if name in row or column.computed is not None:
                continue
            if name == known.generated_key:
                row[name] = self._new_key()
            elif name in known.uniques or column.primary_key:
                row[name] = self._unique(known, column)
            elif column.nullable and self.random.random() < 0.15:
                row[name] = None
            else:
                row[name] = self._value(known, column)
        return row

    def _unique(self, known: _Known, column: Any) -> Any:
        """A value of this outlet's own, or one of a few that every outlet may take."""
        shared = self.random.random() < self._collide
        number = self.random.randrange(8) if shared else self._new_key()
        if isinstance(column.type, types.Integer):
            return number
        if isinstance(column.type, types.String):
            return f"u{number}"[-(known.lengths.get(column.name) or 40) :]
        return self._value(known, column)

    def _value(self, known: _Known, column: Any) -> Any:
        kind, draw = column.type, self.random
        match kind:
            case types.Boolean():
                return draw.random() < 0.5
            case types.Integer():
                return self._integer(kind)
            case types.Float():
                return draw.choice([0.1, -1e-300, 1e300, draw.uniform(-1e6, 1e6), draw.random()])
            case types.Numeric():
                digits, scale = int(kind.precision or 10), int(kind.scale or 0)
                return Decimal(draw.randrange(-(10 ** min(digits, 15)) + 1, 10 ** min(digits, 15))).scaleb(-scale)
            case types.LargeBinary() | mysql.MEDIUMBLOB():
                return draw.randbytes(draw.choice([0, 1, 16, 300]))
            case types.DateTime():
                moment = datetime(1990, 1, 1) + timedelta(seconds=draw.randrange(40 * 365 * 86400))
                unit = 10 ** (6 - known.fractions.get(column.name, 6))
                return moment.replace(microsecond=draw.randrange(1_000_000) // unit * unit)
            case types.Date():
                return date(1900, 1, 1) + timedelta(days=draw.randrange(60000))
            case types.Time():
                return time(draw.randrange(24), draw.randrange(60), draw.randrange(60))
            case types.JSON():
                return {"n": draw.randrange(100), "t": draw.choice(_TEXTS), "l": [1, None, True]}
            case types.Enum():
                return draw.choice(kind.enums)
            case types.String():
                words = " ".join(draw.choices(_TEXTS, k=draw.randint(1, 3)))
                if column.name in known.plane0:
                    words = "".join(letter for letter in words if letter <= "\uffff")
                return _cut(words, known.lengths.get(column.name) or 200)
        raise AssertionError(f"no random values are known for {known.table.name}.{column.name} {kind!r}")

    def _integer(self, kind: types.Integer) -> int:
        bits = 8 if isinstance(kind, mysql.TINYINT) else 16 if isinstance(kind, types.SmallInteger) else 32
        low = 0 if getattr(kind, "unsigned", False) else -(2 ** (bits - 1))
        choices: list[int] = [low, 2 ** (bits - 1) - 1, 0, 1, self.random.randrange(100)]
        return self.random.choice(choices)


def _code(error: DBAPIError) -> tuple[str, int]:
    """The server's number, by family."""
    if isinstance(error.orig, pyodbc.Error):
        return "mssql", number_of(error.orig)
    code = error.orig.args[0] if error.orig and error.orig.args else 0
    return "mysql", code if isinstance(code, int) else 0


def _is(table: Table, key: tuple[Any, ...]) -> Any:
    return and_(*(column == value for column, value in zip(table.primary_key.columns, key, strict=True)))


def _table(metadata: MetaData, name: str) -> Table | None:
    return next((table for table in metadata.sorted_tables if table.name.lower() == name.lower()), None)


def _known(table: Table, elsewhere: Sequence[Table | None]) -> _Known:
    versions = [table, *(other for other in elsewhere if other is not None)]
    lengths: dict[str, int] = {}
    fractions: dict[str, int] = {}
    plane0: set[str] = set()
    for column in table.columns:
        same = [c for version in versions for c in version.columns if c.name.lower() == column.name.lower()]
        stated = [c.type.length for c in same if isinstance(c.type, types.String) and c.type.length]
        if stated:
            lengths[column.name] = min(stated)
        if any((getattr(c.type, "charset", "") or "") in ("utf8", "utf8mb3") for c in same):
            plane0.add(column.name)
        fractions[column.name] = min(
            (c.type.fsp or 0 for c in same if isinstance(c.type, mysql.DATETIME | mysql.TIMESTAMP | mysql.TIME)),
            default=6,
        )
    constraints = [constraint for constraint in table.constraints if isinstance(constraint, UniqueConstraint)]
    uniques = {column.name for constraint in constraints for column in constraint.columns}
    uniques |= {column.name for index in table.indexes if index.unique for column in index.columns}
    key = list(table.primary_key.columns)
    generated = (
        key[0].name if len(key) == 1 and isinstance(key[0].type, types.Integer) and not key[0].foreign_keys else None
    )
    return _Known(table, lengths, fractions, plane0, uniques, generated)


def totals(writers: Mapping[str, Writer] | Sequence[Writer]) -> Counter[str]:
    """What all writers did together."""
    each = writers.values() if isinstance(writers, Mapping) else writers
    return sum((writer.counts for writer in each), Counter())
