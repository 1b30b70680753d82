"""What only MySQL and MariaDB can have wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from services.cli.doctor.application_triggers import ApplicationTrigger, findings
from services.cli.doctor.checks import clock
from services.cli.doctor.finding import Finding, check, must, note
from services.cli.statements import named
from services.kernel.catalogue import Catalogue, Table
from services.kernel.dialects import Dialect

SQL = named(Path(__file__).with_name("mysql.sql"))

PACKET_BYTES = 16 * 1024 * 1024
"""Subak binds at most 1 MiB of a batch at a time; the rest is room for a row's images. It is MariaDB's default."""

GUARD = "Put its body between `IF COALESCE(@subak_applier, 0) = 0 THEN` and `END IF;`."
MARK = "@subak_applier"

DENIED = {1044, 1045, 1142, 1143, 1227, 1370}
"""The server's codes for a privilege that is lacking."""

ABSENT = 1146
"""There is no such table: what was tried would have been allowed."""

BINARY_LOG = 1419
"""A trigger may not be created while the binary log is on, but by an administrator."""


class Server(NamedTuple):
    product: str
    version: tuple[int, ...]


def examine(connection: Connection, dialect: Dialect, catalogue: Catalogue) -> Iterator[Finding]:
    server = _server(dialect.server(connection))
    yield from _version(server)
    yield from _rights(connection, dialect, catalogue, server)
    yield from _variables(connection, catalogue, server)
    yield from _triggers(connection, dialect, catalogue)
    for row in connection.execute(text(SQL["events"])):
        yield check(
            "event",
            row.Name,
            "This event runs at every outlet; what it writes to a synchronised table is sent to all others.",
            "If it writes to one, enable it at one outlet only.",
        )
    yield from clock(float(connection.scalar(text(SQL["clock"])) or 0))
    yield note(
        "drop_column",
        "DROP COLUMN",
        "A trigger here names the table's columns: after a DROP or RENAME COLUMN the application's writes would fail.",
        "Change columns so: stop capture and the application, `subak triggers remove`, ALTER TABLE, "
        "`subak triggers install`, start both; at every outlet.",
    )


def _server(name: str) -> Server:
    product, _, version = name.partition(" ")
    return Server(product, tuple(int(part) for part in version.split(".") if part.isdigit()))


def _version(server: Server) -> Iterator[Finding]:
    least = (10, 6) if server.product == "MariaDB" else (8, 0)
    if server.version < least:
        yield must(
            "version",
            server.product,
            f"This is {server.product} {'.'.join(map(str, server.version))}.",
            f"Subak needs {server.product} {'.'.join(map(str, least))} or later.",
        )


def _rights(connection: Connection, dialect: Dialect, catalogue: Catalogue, server: Server) -> Iterator[Finding]:
    """Tries what the services will do, in a way that comes to nothing."""
    attempts = [("try_table", "CREATE"), ("try_trigger", "TRIGGER")]
    if server.product == "MySQL":  # MariaDB replaces a trigger in one statement
        attempts.append(("try_lock", "LOCK TABLES"))
    for name, privilege in attempts:
        if finding := _try(connection, SQL[name], "this database", privilege, "db.*"):
            yield finding
    for table in catalogue.tables:
        for privilege, sql in _harmless(table, dialect):
            if finding := _try(connection, sql, table.name, privilege, f"db.{table.name}"):
                yield finding
    connection.rollback()


def _harmless(table: Table, dialect: Dialect) -> Iterator[tuple[str, str]]:
    """Statements that need a privilege on the table and touch no row of it."""
    name, key = dialect.identifier(table.name), dialect.identifier(table.key[0])
    columns = ", ".join(dialect.identifier(column.name) for column in table.columns)
    yield "INSERT", f"INSERT INTO {name} ({columns}) SELECT {columns} FROM {name} WHERE FALSE"  # noqa: S608 - local catalogue
    yield "UPDATE", f"UPDATE {name} SET {key} = {key} WHERE FALSE"  # noqa: S608
    yield "DELETE", f"DELETE FROM {name} WHERE FALSE"  # noqa: S608


def _try(connection: Connection, sql: str, subject: str, privilege: str, where: str) -> Finding | None:
    try:
        connection.exec_driver_sql(sql, execution_options={"no_parameters": True})
    except DBAPIError as error:
        number, message = error.orig.args[:2] if error.orig and len(error.orig.args) > 1 else (0, str(error.orig))
        if number == BINARY_LOG:
            return must(
                "binary_log",
                "log_bin_trust_function_creators",
                "The binary log is on, and this user may therefore create no trigger.",
                "SET GLOBAL log_bin_trust_function_creators = 1 (in my.cnf too); the triggers are deterministic.",
            )
        if number == ABSENT:
            return None
        if number in DENIED:
            return must("privilege", subject, f"{message}.", f"GRANT {privilege} ON {where} TO the user of Subak.")
        return must("refused", subject, f"{message}.", "See the server's message.")
    return None


def _variables(connection: Connection, catalogue: Catalogue, server: Server) -> Iterator[Finding]:
    variables = {name.lower(): value for name, value in connection.execute(text(SQL["variables"]))}
    generated = [table.name for table in catalogue.tables if table.generated_key]
    if generated and int(variables.get("auto_increment_increment", 1)) <= 1:
        yield must(
            "colliding_keys",
            ", ".join(generated),
            "AUTO_INCREMENT makes the same keys here as at every other outlet (auto_increment_increment is 1).",
            "Set auto_increment_increment to the most outlets you will ever have, the same everywhere, and "
            "auto_increment_offset to another number at each outlet.",
        )
    if variables.get("log_bin") == "ON" and variables.get("binlog_format", "").upper() == "STATEMENT":
        yield must(
            "binlog_format",
            "binlog_format",
            "With STATEMENT, InnoDB refuses writes under READ COMMITTED, which Subak uses.",
            "Set binlog_format to ROW (or MIXED).",
        )
    if int(variables.get("max_allowed_packet", PACKET_BYTES)) < PACKET_BYTES:
        yield check(
            "max_allowed_packet",
            "max_allowed_packet",
            "A row whose two images together are larger fails to be written, here or where it arrives.",
            "Set max_allowed_packet to 16M or more, and to the same everywhere.",
        )
    if server.product == "MySQL" and _try(connection, SQL["try_transactions"], "performance_schema", "SELECT", "it"):
        yield note(
            "performance_schema",
            "performance_schema",
            "It is off or may not be read, so triggers cannot learn the transaction's name: what one session commits "
            "within a moment travels as one transaction.",
            "Nothing is wrong with that. To have each by itself: performance_schema = ON, and GRANT SELECT ON "
            "performance_schema.events_transactions_current TO the user of Subak.",
        )


def _triggers(connection: Connection, dialect: Dialect, catalogue: Catalogue) -> Iterator[Finding]:
    own = dialect.installed(connection)
    for row in connection.execute(text(SQL["triggers"])):
        if row.Name not in own:
            yield from findings(ApplicationTrigger(row.Name, row.TableName, row.Body), catalogue, MARK, GUARD)
