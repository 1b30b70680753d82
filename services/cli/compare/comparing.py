"""Comparing every synchronised table of several databases.

A table is streamed once from each database, adding up its rows' digests in constant memory: equal sums and counts are
equal tables. Only a table that differs is streamed again, its keys and digests into a temporary file, to find which
rows differ; and once more for the rows to be shown. All passes over a database happen in one snapshot of it.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import chain, groupby
from operator import itemgetter

from sqlalchemy import Connection, func, select
from sqlalchemy.engine import URL

from services.applier.quarantine import differing
from services.cli.compare.common import DIGEST_BYTES, Common, Digest, common
from services.cli.databases import connected, shown, state
from services.kernel.catalogue import Catalogue, Table, folded
from services.kernel.dialects import Dialect
from services.kernel.errors import PermanentError
from services.kernel.schema import CLOUD_QUERY, QUARANTINE, QUARANTINE_ROW, is_prepared
from services.kernel.values import Image

FETCH_ROWS = 1000
"""Rows taken from a driver at a time: enough to hide a round trip, little beside anything else."""

SHOWN_ROWS = 200
"""Differing rows of one table that are kept with their values."""


@dataclass(frozen=True)
class Database:
    """One of the databases compared; `waiting` counts changes that have not left it yet."""

    name: str
    url: str
    server: str
    waiting: int = 0


@dataclass(frozen=True)
class RowDifference:
    """A row that is not the same everywhere. `images`: one per database, None where it has no such row."""

    key: str
    columns: tuple[str, ...]
    images: tuple[Image | None, ...]
    explained: tuple[str, ...]
    """The databases in which a quarantined transaction waits that concerns this row."""
    given_up: tuple[str, ...] = ()
    """The databases in which such a transaction was discarded, and the row not written since."""


@dataclass
class TableResult:
    name: str
    rows: tuple[int, ...] = ()
    differing: int = 0
    apart: tuple[int, ...] = ()
    """Per database, the rows in which it does not hold what most hold."""
    explained: int = 0
    differences: list[RowDifference] = field(default_factory=list)
    """The first SHOWN_ROWS of them by key."""
    problem: PermanentError | None = None
    """Why the table could not be compared."""


@dataclass(frozen=True)
class Comparison:
    databases: tuple[Database, ...]
    tables: tuple[TableResult, ...]
    refused: tuple[str, ...]
    """Tables that no database synchronises, with the reason."""

    @property
    def differs(self) -> bool:
        return any(table.differing for table in self.tables)

    @property
    def complete(self) -> bool:
        return bool(self.tables) and not any(table.problem for table in self.tables)

    @property
    def identical(self) -> bool:
        return self.complete and not self.differs

    def apart(self, index: int) -> int:
        """The rows in which one database does not hold what most hold."""
        return sum(table.apart[index] for table in self.tables if table.apart)


@dataclass(frozen=True)
class _Side:
    """A database with the snapshot that it is read in."""

    database: Database
    connection: Connection
    dialect: Dialect
    catalogue: Catalogue
    quarantined: frozenset[tuple[str, str]]
    """(folded table, row key)"""
    discarded: frozenset[tuple[str, str]]

    def images(self, table: Table, common: Common) -> Iterator[Image]:
        image, name = self.dialect.image_sql(table, "t"), self.dialect.relation(table)
        sql = f"SELECT {image} FROM {name} AS t"  # noqa: S608 - identifiers of the local catalogue
        options = {"stream_results": True, "no_parameters": True, "yield_per": FETCH_ROWS}
        for (text,) in self.connection.exec_driver_sql(sql, execution_options=options):
            yield common.image(self.dialect.wire_image(text, table))


def compare(urls: Sequence[URL], patterns: Sequence[str] = ("*",)) -> Comparison:
    """Raises SubakError when a database cannot be read. A table that cannot be compared says so in its result."""
    with ExitStack() as stack:
        sides = []
        for url in urls:
            connection, dialect = stack.enter_context(connected(url))
            sides.append(_side(url, connection, dialect, patterns))
        refusals = {f"{refusal.table}: {refusal.what}" for side in sides for refusal in side.catalogue.refusals}
        names = {folded(table.name): table.name for side in sides for table in side.catalogue.tables}
        tables = [_table(sides, name) for _, name in sorted(names.items())]
        return Comparison(tuple(side.database for side in sides), tuple(tables), tuple(sorted(refusals)))


def _side(url: URL, connection: Connection, dialect: Dialect, patterns: Sequence[str]) -> _Side:
    prepared = is_prepared(connection)
    name, waiting = None, 0
    quarantined = discarded = frozenset[tuple[str, str]]()
    if prepared:
        name = state(connection, "outlet")
        waiting = connection.scalar(select(func.count()).where(CLOUD_QUERY.c.ExportFlag == 0)) or 0
        rows = connection.execute(
            select(QUARANTINE_ROW.c.TableName, QUARANTINE_ROW.c.RowKey)
            .join(QUARANTINE, QUARANTINE.c.Id == QUARANTINE_ROW.c.QuarantineId)
            .where(QUARANTINE.c.State == "waiting")
        )
        quarantined = frozenset((folded(table), key) for table, key in rows)
        discarded = frozenset((folded(table), key) for _, table, key in connection.execute(differing()))
    database = Database(name or url.database or shown(url), shown(url), dialect.server(connection), waiting)
    return _Side(database, connection, dialect, dialect.catalogue(connection, patterns), quarantined, discarded)


def _table(sides: Sequence[_Side], name: str) -> TableResult:
    result = TableResult(name)
    try:
        tables = _everywhere(sides, name)
        shape = common(tables)
    except PermanentError as error:
        result.problem = error
        return result
    sums = [_sum(side.images(table, shape), shape) for side, table in zip(sides, tables, strict=True)]
    result.rows = tuple(count for count, _ in sums)
    if len(set(sums)) > 1:
        _find(result, sides, tables, shape)
    return result


def _everywhere(sides: Sequence[_Side], name: str) -> list[Table]:
    tables = [side.catalogue.table(name) for side in sides]
    lacking = [side.database.name for side, table in zip(sides, tables, strict=True) if table is None]
    if lacking:
        raise PermanentError(
            "missing_table",
            f"{', '.join(lacking)} does not synchronise table {name}.",
            "Run `subak doctor` there, or leave the table out with --tables.",
        )
    return [table for table in tables if table is not None]


def _sum(images: Iterator[Image], shape: Common) -> tuple[int, int]:
    """(rows, sum of their digests): the same for the same rows in any order."""
    count = total = 0
    for image in images:
        count += 1
        total += int.from_bytes(shape.digest(image))
    return count, total % (1 << (8 * DIGEST_BYTES))


_DIFFERING = """
SELECT key, side, digest FROM row
WHERE key IN (SELECT key FROM row GROUP BY key HAVING COUNT(*) <> ? OR COUNT(DISTINCT digest) > 1)
ORDER BY key, side
"""


def _find(result: TableResult, sides: Sequence[_Side], tables: Sequence[Table], shape: Common) -> None:
    first: list[str] = []
    apart = [0] * len(sides)
    with closing(sqlite3.connect("")) as scratch:  # no name: a file of its own, in memory while it is small
        scratch.execute("CREATE TABLE row (key TEXT NOT NULL, side INTEGER NOT NULL, digest BLOB NOT NULL)")
        for index, (side, table) in enumerate(zip(sides, tables, strict=True)):
            rows = ((shape.key(image), index, shape.digest(image)) for image in side.images(table, shape))
            scratch.executemany("INSERT INTO row VALUES (?, ?, ?)", rows)
        for key, group in groupby(scratch.execute(_DIFFERING, (len(sides),)), key=itemgetter(0)):
            digests: list[Digest | None] = [None] * len(sides)
            for _, index, digest in group:
                digests[index] = digest
            ((most, _),) = Counter(digests).most_common(1)
            apart = [count + (digest != most) for count, digest in zip(apart, digests, strict=True)]
            result.differing += 1
            result.explained += any((folded(result.name), key) in side.quarantined for side in sides)
            if len(first) < SHOWN_ROWS:
                first.append(key)
    result.apart = tuple(apart)
    result.differences = list(_show(result.name, first, sides, tables, shape))


def _show(
    name: str, keys: Sequence[str], sides: Sequence[_Side], tables: Sequence[Table], shape: Common
) -> Iterator[RowDifference]:
    wanted = set(keys)
    found: dict[str, list[Image | None]] = defaultdict(lambda: [None] * len(sides))
    for index, (side, table) in enumerate(zip(sides, tables, strict=True)):
        for image in side.images(table, shape):
            if (key := shape.key(image)) in wanted:
                found[key][index] = image
    for key in keys:
        images = tuple(found[key])
        present = [image for image in images if image is not None]
        columns = [
            column.name
            for column in shape.table.columns
            if len({repr(image[folded(column.name)]) for image in present}) > 1
        ]
        explained = tuple(side.database.name for side in sides if (folded(name), key) in side.quarantined)
        given_up = tuple(side.database.name for side in sides if (folded(name), key) in side.discarded)
        yield RowDifference(key, tuple(columns), images, explained, given_up)


def differing_columns(difference: RowDifference) -> tuple[str, ...]:
    """The columns to show: those that differ, or all when the row is missing somewhere."""
    if difference.columns:
        return difference.columns
    present = next(image for image in difference.images if image is not None)
    return tuple(dict.fromkeys(chain(present)))
