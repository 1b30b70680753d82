"""What was made of a row here, from `CloudQuery`: the chain of changes that led to its version. See stamping.py."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy import Connection

from services.applier.deciding import Version
from services.applier.lives import Lives
from services.applier.stamping import Made, described
from services.applier.view import RowName
from services.kernel.catalogue import Table, folded
from services.kernel.change import Op, Stamp
from services.kernel.dialects import Dialect
from services.kernel.errors import PermanentError
from services.kernel.policy import Policies
from services.kernel.schema import CLOUD_QUERY
from services.kernel.values import Image, canonical

STEPS = 20
"""Changes of a row that are looked up one after the other; a longer chain is read in one go: all of the table's since then."""

STAMPS = 500
"""Stamps named in one statement."""

_COLUMNS = (
    CLOUD_QUERY.c.Id,
    CLOUD_QUERY.c.Operation,
    CLOUD_QUERY.c.RowKey,
    CLOUD_QUERY.c.BeforeImage,
    CLOUD_QUERY.c.AfterImage,
    CLOUD_QUERY.c.Stamp,
    CLOUD_QUERY.c.BaseStamp,
    CLOUD_QUERY.c.BaseOrigin,
)

Key = tuple[str, Stamp]
"""Of a change: its row's key, and its stamp."""


class History:
    """Of one transaction. `lives`: under whose names the changes in `CloudQuery` were made."""

    def __init__(self, connection: Connection, dialect: Dialect, lives: Lives, policies: Policies) -> None:
        self._connection = connection
        self._dialect = dialect
        self._lives = lives
        self._origins = lives.origins
        self._policies = policies
        self._found: dict[tuple[str, str, Stamp], Made | None] = {}

    def prepare(self, table: Table, versions: Mapping[RowName, Version | None]) -> None:
        """Reads in bulk the last changes that were made here of these rows of one table."""
        wanted = {
            (row.key, version.stamp)
            for row, version in versions.items()
            if version and self._unknown(version) is not None
        }
        self._read(table, wanted)

    def made(self, table: Table, row: RowName, version: Version) -> Sequence[Made]:
        """Newest first."""
        found: list[Made] = []
        stamp, end = version.stamp, self._unknown(version)
        while end is not None and stamp.origin in self._origins and stamp != end:
            if len(found) == STEPS:
                self._read_since(table, row, end.time, stamp.time)
            one = self._change(table, row, stamp)
            if one is None:
                break
            found.append(one)
            stamp = one.base
        return found

    def _unknown(self, version: Version) -> Stamp | None:
        """The version up to which the columns' stamps are written down; None when that is this one, or it was not made here."""
        known = described(version)
        end = known[0] if known else Stamp(-1, "")
        return None if end == version.stamp or version.stamp.origin not in self._origins else end

    def _change(self, table: Table, row: RowName, stamp: Stamp) -> Made | None:
        if (table.name, row.key, stamp) not in self._found:
            self._read(table, {(row.key, stamp)})
        return self._found[table.name, row.key, stamp]

    def _read(self, table: Table, wanted: set[Key]) -> None:
        self._found.update(dict.fromkeys((table.name, *key) for key in wanted))
        stamps = sorted({stamp.time for _, stamp in wanted})
        for start in range(0, len(stamps), STAMPS):
            self._take(table, CLOUD_QUERY.c.Stamp.in_(stamps[start : start + STAMPS]), wanted)

    def _read_since(self, table: Table, row: RowName, after: int, until: int) -> None:
        between = (CLOUD_QUERY.c.Stamp > after) & (CLOUD_QUERY.c.Stamp <= until) & (CLOUD_QUERY.c.RowKey == row.key)
        self._take(table, between, None)

    def _take(self, table: Table, which: sa.ColumnElement[bool], wanted: set[Key] | None) -> None:
        query = sa.select(*_COLUMNS).where(CLOUD_QUERY.c.TableName == table.name, which)
        for row in self._connection.execute(query):
            stamps = [Stamp(row.Stamp, origin) for origin in self._origins if self._lives.may_be(row.Id, origin)]
            for stamp in stamps:
                if wanted is None or (row.RowKey, stamp) in wanted:
                    self._found[table.name, row.RowKey, stamp] = Made(
                        Op(row.Operation),
                        self._image(table, row.BeforeImage),
                        self._image(table, row.AfterImage),
                        stamp,
                        Stamp(row.BaseStamp, row.BaseOrigin),
                        self._policies.generation_of(row.Id),
                    )

    def _image(self, table: Table, text: str | None) -> Image | None:
        """Without the columns that the table has lost since."""
        if text is None:
            return None
        image: Image = {}
        for name, value in json.loads(self._dialect.wire_image(text, table)).items():
            if table.has(name):
                try:
                    image[folded(name)] = canonical(table.column(name), value)
                except PermanentError:  # its type was changed since: it is only asked whether it was written
                    image[folded(name)] = str(value)
        return image
