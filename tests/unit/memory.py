"""Outlets in memory: the application's writes with the triggers' rules, and the product's own decisions, with no database."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from msgspec.structs import replace

from services.applier.deciding import Awaited, AwaitedStamps, Version
from services.applier.judging import Situation
from services.applier.parsing import Parsed, Refused, parse
from services.applier.planning import Plan, plan
from services.applier.stamping import Made, described
from services.applier.view import Reference, RowName, name_of, parent_key
from services.kernel.catalogue import Catalogue, Column, ForeignKey, Kind, Table, folded
from services.kernel.change import NEVER, Change, Op, Stamp, Transaction
from services.kernel.errors import PermanentError
from services.kernel.policy import Given, Policies, Rules
from services.kernel.values import Image, parse_image, render_image

PRODUCT = Table(
    "product",
    (Column("sku", Kind.TEXT, nullable=False), Column("name", Kind.TEXT), Column("code", Kind.TEXT)),
    ("sku",),
    uniques=(("code",),),
)
SALE = Table(
    "sale",
    (Column("id", Kind.INTEGER, nullable=False, generated=True), Column("sku", Kind.TEXT), Column("n", Kind.INTEGER)),
    ("id",),
    (ForeignKey("sale_product", ("sku",), "product", ("sku",)),),
)
EMPLOYEE = Table(
    "employee",
    (Column("id", Kind.TEXT, nullable=False), Column("boss", Kind.TEXT)),
    ("id",),
    (ForeignKey("employee_boss", ("boss",), "employee", ("id",)),),
)
PRICE = Table(
    "price",
    (Column("id", Kind.TEXT, nullable=False), Column("sku", Kind.TEXT), Column("amount", Kind.DECIMAL)),
    ("id",),
    (ForeignKey("price_product", ("sku",), "product", ("sku",), on_delete="CASCADE", on_update="CASCADE"),),
)
STOCK = Table(
    "stock",
    (
        Column("sku", Kind.TEXT, nullable=False),
        Column("on_hand", Kind.INTEGER, nullable=False),
        Column("value", Kind.DECIMAL, nullable=False),
        Column("shelf", Kind.TEXT),
        Column("note", Kind.TEXT),
    ),
    ("sku",),
)
COUNT = Table(
    "count",
    (Column("id", Kind.TEXT, nullable=False), Column("sku", Kind.TEXT), Column("n", Kind.INTEGER)),
    ("id",),
    (ForeignKey("count_stock", ("sku",), "stock", ("sku",)),),
)
CATALOGUE = Catalogue((PRODUCT, SALE, EMPLOYEE, PRICE, STOCK, COUNT))


class ApplicationError(Exception):
    """The database refuses what the application asks for: nothing happens."""


@dataclass
class Entry:
    """A quarantined transaction."""

    transaction: Transaction
    code: str
    rows: dict[RowName, Stamp]


@dataclass
class MemoryOutlet:
    name: str
    clock: int = 1_000
    rows: dict[RowName, Image] = field(default_factory=dict)
    versions: dict[RowName, Version] = field(default_factory=dict)
    quarantine: list[Entry] = field(default_factory=list)
    outbox: list[tuple[Transaction, list[int]]] = field(default_factory=list)
    """Transactions, and the Ids of their changes."""
    log: dict[tuple[RowName, Stamp], tuple[int, Change]] = field(default_factory=dict)
    """CloudQuery: the changes made here, and their Ids."""
    given: list[Given] = field(default_factory=list)
    ledger: set[int] = field(default_factory=set)
    _besides: Entry | None = None

    # The view

    def version(self, row: RowName) -> Version | None:
        return self.versions.get(row)

    def exists(self, row: RowName) -> bool:
        return row in self.rows

    def image(self, table: Table, row: RowName) -> Image | None:
        return self.rows.get(row)

    def awaited(self, row: RowName) -> AwaitedStamps:
        found: dict[Stamp, Awaited] = {}
        for entry in self.quarantine:
            if entry is self._besides:
                break
            found |= {
                change.stamp: Awaited(entry.code, True)
                for change in entry.transaction.changes
                if _row_of(change) == row
            }
        return found

    def made(self, table: Table, row: RowName, version: Version) -> list[Made]:
        found: list[Made] = []
        known = described(version)
        stamp = version.stamp
        while (row, stamp) in self.log and not (known and known[0] == stamp):
            number, change = self.log[row, stamp]
            images = [parse_image(table, text) if text else None for text in (change.before, change.after)]
            generation = Policies(self.given).generation_of(number)
            found.append(Made(change.op, *images, change.stamp, change.base, generation))
            stamp = change.base
        return found

    def captured(self) -> Transaction | None:
        """The next transaction as capture sends it."""
        if not self.outbox:
            return None
        transaction, ids = self.outbox.pop(0)
        policies = Policies(self.given)
        tagged = [
            replace(change, policy=policies.generation_of(number))
            for change, number in zip(transaction.changes, ids, strict=True)
        ]
        return Transaction(transaction.label, tuple(tagged))

    def take_up(self, generation: int, rules: Rules) -> None:
        if generation not in {one.generation for one in self.given}:
            self.given.append(Given(generation, rules, len(self.log)))

    def _post(self, label: str, changes: list[Change]) -> None:
        ids = []
        for change in changes:
            ids.append(len(self.log) + 1)
            self.log[_row_of(change), change.stamp] = ids[-1], change
        self.outbox.append((Transaction(label, tuple(changes)), ids))

    def references(self, table: Table, image: Image) -> Iterable[Reference]:
        for child, foreign_key in CATALOGUE.children(table):
            for row, child_image in self.rows.items():
                if row.table == child.name and refers(foreign_key, child_image, image):
                    yield Reference(child, foreign_key, row)

    # The application

    def transact(self, writes: list[tuple[Table, Image | None, Image | None]]) -> None:
        """Each write is (table, before, after). All or nothing, as in a database."""
        rows, versions = dict(self.rows), dict(self.versions)
        changes: list[Change] = []
        try:
            for table, chosen, after in writes:
                # An earlier write of this transaction may have changed the row meanwhile.
                before = self.rows.get(name_of(table, chosen), chosen) if chosen is not None else None
                changes += self._statement(table, before, after)
        except ApplicationError:
            self.rows, self.versions = rows, versions
            raise
        if changes:
            self._post(f"{self.name}{self.clock}", changes)

    def _statement(self, table: Table, before: Image | None, after: Image | None) -> list[Change]:
        """What the triggers record of one statement: a cascade's changes first, as SQLite's foreign key actions fire."""
        if before is not None and after is None:
            gone = [ref for ref in self.references(table, before) if ref.foreign_key.on_delete == "CASCADE"]
            cascaded = [c for ref in gone for c in self._statement(ref.table, self.rows[ref.row], None)]
            self._write(table, before, None)
            return [*cascaded, self._change(table, Op.DELETE, before, None)]
        if before is not None and after is not None and name_of(table, before) != name_of(table, after):
            children = {ref.row: dict(self.rows[ref.row]) for ref in self.references(table, before)}
            self._write(table, before, after)
            moved = [
                self._change(PRICE, Op.UPDATE, image, self.rows[row])
                for row, image in children.items()
                if row.table == "price"
            ]
            pair = (
                self._change(table, Op.DELETE, before, None, paired=True),
                self._change(table, Op.INSERT, None, after),
            )
            return [*moved, *pair]
        if before == after:
            return []
        self._write(table, before, after)
        return [self._change(table, Op.INSERT if before is None else Op.UPDATE, before, after)]

    def _change(self, table: Table, op: Op, before: Image | None, after: Image | None, paired: bool = False) -> Change:
        row = name_of(table, after if after is not None else before or {})
        old = self.versions.get(row)
        base = old.stamp if old else NEVER
        stamp = Stamp(max(self.clock, base.time + 1), self.name)
        texts = [render_image(table, image) if image is not None else None for image in (before, after)]
        if op is Op.INSERT and old and old.deleted:
            texts[0] = old.last_image
        columns = old.columns if old else None  # the triggers leave it as it is
        self.versions[row] = Version(stamp, base, op is Op.DELETE, texts[0] if op is not Op.UPDATE else None, columns)
        return Change(table.name, op, row.key, texts[0], texts[1], stamp, base, paired)

    def _write(self, table: Table, before: Image | None, after: Image | None) -> None:
        """One statement, with every constraint checked at once, as InnoDB does."""
        if before is not None:
            old = name_of(table, before)
            if old not in self.rows:
                raise ApplicationError("no such row")
            moved = after is not None and name_of(table, after) != old
            children = [ref for ref in self.references(table, before) if ref.row != old]
            if after is None:
                assert not any(ref.foreign_key.on_delete == "CASCADE" for ref in children), "a cascade acts by itself"
            if children and (after is None or (moved and any(r.foreign_key.on_update != "CASCADE" for r in children))):
                raise ApplicationError("foreign key: has children")
            del self.rows[old]
        if after is not None:
            row = name_of(table, after)
            if row in self.rows:
                self._restore(table, before)
                raise ApplicationError("duplicate key")
            for columns in table.uniques:
                values = [after[column] for column in columns]
                if None not in values and any(
                    other.table == table.name and [image[c] for c in columns] == values
                    for other, image in self.rows.items()
                ):
                    self._restore(table, before)
                    raise ApplicationError("duplicate value")
            for foreign_key in table.foreign_keys:
                parent = CATALOGUE.table(foreign_key.parent)
                assert parent is not None
                wanted = parent_key(foreign_key, parent, after)
                if wanted is not None and wanted not in self.rows and wanted != row:
                    self._restore(table, before)
                    raise ApplicationError("foreign key: no parent")
            self.rows[row] = after
            if before is not None and name_of(table, before) != row:
                for ref in list(self.references(table, before)):
                    if ref.foreign_key.on_update == "CASCADE":
                        pairs = zip(ref.foreign_key.columns, ref.foreign_key.parent_columns, strict=True)
                        self.rows[ref.row] = self.rows[ref.row] | {c: after[p] for c, p in pairs}

    def _restore(self, table: Table, before: Image | None) -> None:
        if before is not None:
            self.rows[name_of(table, before)] = before

    # The applier

    def apply(self, sequence: int, transaction: Transaction) -> None:
        if sequence in self.ledger:
            return
        try:
            self._attempt(transaction, again=False)
        except (PermanentError, ApplicationError) as error:
            code = error.code if isinstance(error, PermanentError) else "engine"
            rows = {_row_of(change): change.stamp for change in transaction.changes}
            self.quarantine.append(Entry(transaction, code, rows))
        self.ledger.add(sequence)

    def retry(self) -> bool:
        for entry in list(self.quarantine):
            self._besides = entry
            try:
                self._attempt(entry.transaction, again=True)
            except (PermanentError, ApplicationError):
                continue
            finally:
                self._besides = None
            self.quarantine.remove(entry)
            return True
        return False

    def _attempt(self, transaction: Transaction, *, again: bool) -> None:
        rows, versions = dict(self.rows), dict(self.versions)
        try:
            part, _ = plan(
                parse(transaction, CATALOGUE, transaction.changes[0].stamp.origin),
                self,
                Situation(CATALOGUE, self.name, self.clock, Policies(self.given)),
                again=again,
            )
            self._execute(part)
        except (PermanentError, ApplicationError):
            self.rows, self.versions = rows, versions
            raise

    def _execute(self, part: Plan) -> None:
        for write in part.writes:
            name = write.renamed or write.row
            before = self.rows.get(name)
            assert (before is not None) == write.existed or write.image is None, write
            if before is None and write.image is None:
                continue
            self._write(write.table, before, write.image)
        for row, (_, version) in part.versions.items():
            old = self.versions.get(row)
            assert old is None or old.stamp <= version.stamp, "a version never goes back"
            self.versions[row] = version
        if part.changes:
            self._post(f"applier {self.name}", part.changes)


def refers(foreign_key: ForeignKey, child: Image, parent: Image) -> bool:
    pairs = list(zip(foreign_key.columns, foreign_key.parent_columns, strict=True))
    return all(child[c] is not None and child[c] == parent[p] for c, p in pairs)


def _row_of(change: Change) -> RowName:
    parsed: Parsed = parse(Transaction("", (change,)), CATALOGUE, change.stamp.origin)[0]
    return parsed.row


__all__ = [
    "CATALOGUE",
    "COUNT",
    "EMPLOYEE",
    "PRICE",
    "PRODUCT",
    "SALE",
    "STOCK",
    "ApplicationError",
    "MemoryOutlet",
    "Refused",
    "folded",
]
