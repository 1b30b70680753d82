"""What only SQLite can have wrong."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from services.cli.doctor.application_triggers import ApplicationTrigger, findings
from services.cli.doctor.finding import Finding, check, must
from services.cli.statements import named
from services.kernel.catalogue import Catalogue
from services.kernel.dialects import Dialect

SQL = named(Path(__file__).with_name("sqlite.sql"))

GUARD = "Add `WHEN NOT EXISTS (SELECT 1 FROM subak_mark)` before its BEGIN (AND to a WHEN that it has)."
MARK = "subak_mark"

ORPHANS_SHOWN = 10


def examine(connection: Connection, dialect: Dialect, catalogue: Catalogue) -> Iterator[Finding]:
    yield from _rights(connection)
    if (mode := connection.scalar(text(SQL["journal"]))) != "wal":
        yield must(
            "journal_mode",
            "journal_mode",
            f"It is {mode}: a reader blocks the writer, so Subak's polling would hold up the application.",
            "PRAGMA journal_mode = WAL; once: the file keeps it.",
        )
    for row in islice(connection.execute(text(SQL["orphans"])), ORPHANS_SHOWN):
        if catalogue.table(row[0]):
            yield check(
                "orphan",
                row[0],
                f"Row {row[1]} refers to a row of {row[2]} that is not there.",
                "Correct or delete it: other outlets keep foreign keys on and will quarantine changes to it.",
            )
    for table in catalogue.tables:
        if table.generated_key:
            yield check(
                "colliding_keys",
                table.name,
                "SQLite makes its next key as the greatest plus one, the same here as at every other outlet.",
                "Let the application give keys of its outlet's own range (outlet number * 1,000,000,000 + n), or use a "
                "text key; two rows of one generated key are quarantined.",
            )
    own = dialect.installed(connection)
    for row in connection.execute(text(SQL["triggers"])):
        if row.Name not in own:
            yield from findings(ApplicationTrigger(row.Name, row.TableName, row.Body), catalogue, MARK, GUARD)


def _rights(connection: Connection) -> Iterator[Finding]:
    try:
        for name in ("create_scratch", "create_trigger"):
            connection.exec_driver_sql(SQL[name])
    except DBAPIError as error:
        yield must(
            "cannot_write",
            "this database",
            f"A table with a trigger cannot be created: {error.orig}.",
            "Let Subak's user write the file and its folder (SQLite keeps its journal there).",
        )
    finally:
        connection.rollback()
