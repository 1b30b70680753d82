"""The outlet's database as the decisions see it: a narrow window for reading, and an overlay of what is decided."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from services.applier.deciding import AwaitedStamps, Version
from services.applier.stamping import Made
from services.kernel.catalogue import ForeignKey, Table, folded
from services.kernel.values import Image, Value, row_key


class RowName(NamedTuple):
    """A row: its table's folded name and its row key."""

    table: str
    key: str


def name_of(table: Table, image: Image) -> RowName:
    return RowName(folded(table.name), row_key(table, image))


@dataclass(frozen=True)
class Reference:
    """A row of `table` that refers to a parent through `foreign_key`."""

    table: Table
    foreign_key: ForeignKey
    row: RowName


class View(Protocol):
    """Read under the locks of the running transaction, so that what is seen stays true until the commit."""

    def version(self, row: RowName) -> Version | None: ...

    def exists(self, row: RowName) -> bool: ...

    def image(self, table: Table, row: RowName) -> Image | None:
        """The row as it stands here."""

    def awaited(self, row: RowName) -> AwaitedStamps:
        """The changes of this row that are in quarantine."""

    def references(self, table: Table, image: Image) -> Iterable[Reference]:
        """The rows that refer to the row of `table` with this image."""

    def made(self, table: Table, row: RowName, version: Version) -> Sequence[Made]:
        """The changes made here that led to this version of the row, newest first, as far back as they follow one another and
        `version.columns` does not know of them."""


class Overlay:
    """A view in which decided writes already show. Overlays stack: one per batch, on it one per transaction."""

    def __init__(self, below: View) -> None:
        self._below = below
        self._versions: dict[RowName, Version] = {}
        self._rows: dict[RowName, tuple[Table, Image | None]] = {}
        self._children: dict[_Shape, dict[_Values, dict[RowName, Reference]]] = {}
        """The written rows by what they refer to, so that a delete need not look at every row."""
        self._held: dict[RowName, list[tuple[_Shape, _Values]]] = {}

    def version(self, row: RowName) -> Version | None:
        return self._versions[row] if row in self._versions else self._below.version(row)

    def exists(self, row: RowName) -> bool:
        return self._rows[row][1] is not None if row in self._rows else self._below.exists(row)

    def image(self, table: Table, row: RowName) -> Image | None:
        return self._rows[row][1] if row in self._rows else self._below.image(table, row)

    def awaited(self, row: RowName) -> AwaitedStamps:
        return self._below.awaited(row)

    def references(self, table: Table, image: Image) -> Iterable[Reference]:
        found = [ref for ref in self._below.references(table, image) if ref.row not in self._rows]
        for shape, by_values in self._children.items():
            if shape.parent == folded(table.name):
                found.extend(by_values.get(tuple(image.get(column) for column in shape.columns), {}).values())
        return found

    def made(self, table: Table, row: RowName, version: Version) -> Sequence[Made]:
        return () if row in self._versions else self._below.made(table, row, version)

    def write(self, table: Table, row: RowName, image: Image | None) -> None:
        for shape, values in self._held.pop(row, ()):
            del self._children[shape][values][row]
        self._rows[row] = (table, image)
        if image is None:
            return
        for foreign_key in table.foreign_keys:
            values = tuple(image.get(folded(column)) for column in foreign_key.columns)
            if None not in values:
                shape = _Shape(folded(foreign_key.parent), tuple(folded(name) for name in foreign_key.parent_columns))
                by_row = self._children.setdefault(shape, {}).setdefault(values, {})
                by_row[row] = Reference(table, foreign_key, row)
                self._held.setdefault(row, []).append((shape, values))

    def set_version(self, row: RowName, version: Version) -> None:
        self._versions[row] = version

    def merge(self, above: Overlay) -> None:
        """Takes over what an overlay above this one decided."""
        self._versions.update(above._versions)
        for row, (table, image) in above._rows.items():
            self.write(table, row, image)


class _Shape(NamedTuple):
    """What a foreign key points at: a table and the columns of it."""

    parent: str
    columns: tuple[str, ...]


_Values = tuple[Value, ...]


def parent_key(foreign_key: ForeignKey, parent: Table, child: Image) -> RowName | None:
    """The row that `child` refers to; None when it refers to nothing, or not by the parent's primary key."""
    if {folded(name) for name in foreign_key.parent_columns} != {folded(name) for name in parent.key}:
        return None
    values: dict[str, Value] = {}
    for column, parent_column in zip(foreign_key.columns, foreign_key.parent_columns, strict=True):
        value = child.get(folded(column))
        if value is None:
            return None
        values[folded(parent_column)] = value
    return RowName(folded(parent.name), row_key(parent, values))
