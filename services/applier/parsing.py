"""A transaction looked into once: its tables here, its images as canonical values, the rows it is about."""

from __future__ import annotations

from dataclasses import dataclass

from services.applier.view import RowName, name_of
from services.kernel.catalogue import Catalogue, Table, folded
from services.kernel.change import Change, Op, Transaction
from services.kernel.errors import PermanentError
from services.kernel.values import Image, parse_image


class Refused(PermanentError):
    """The transaction cannot be applied here as it is: it goes to quarantine, whole. `code` and `what` tell why."""


def table_of(change: Change, catalogue: Catalogue) -> Table:
    """Raises Refused `missing_table`."""
    table = catalogue.table(change.table)
    if table is None:
        raise Refused(
            "missing_table",
            f"There is no synchronised table {change.table} here.",
            "Create it as at the other outlets, or correct SUBAK_TABLES (see `subak doctor`); then retry.",
        )
    return table


@dataclass(frozen=True)
class Parsed:
    """A change, looked into once: its table here, its images as canonical values, and the row it is about."""

    change: Change
    table: Table
    before: Image | None
    after: Image | None
    row: RowName


def parse(transaction: Transaction, catalogue: Catalogue, origin: str) -> list[Parsed]:
    """`origin`: the outlet that sent it. Raises Refused `missing_table`, or PermanentError `origin`, `image`,
    `missing_column`, `value`."""
    parsed = []
    for change in transaction.changes:
        if change.stamp.origin != origin:
            raise Refused(
                "origin",
                f"{origin} sent a change of {change.table} that says it was made at {change.stamp.origin}.",
                "An outlet speaks for itself only: find out what runs there under its name.",
            )
        table = table_of(change, catalogue)
        before = parse_image(table, change.before) if change.before is not None else None
        after = parse_image(table, change.after) if change.after is not None else None
        image = before if change.op is Op.DELETE else after
        if image is None or any(folded(name) not in image for name in table.key):
            raise Refused("image", f"A change of {change.table} lacks its row image or its key.", "Report this.")
        parsed.append(Parsed(change, table, before, after, name_of(table, image)))
    return parsed
