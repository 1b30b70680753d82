"""What differs between the engines, and nothing else. One module per engine, each with one object that has this shape.

`dialect_for` is the only place that looks at a URL's backend. SQL that an engine needs stands in `sql/outlet/<name>/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, make_url
from sqlalchemy.engine import URL

from services.kernel.catalogue import Catalogue, Column, Table
from services.kernel.errors import PermanentError, SubakError
from services.kernel.values import Value


class Purpose(StrEnum):
    """What an engine (a pool of one kind of connection) is for; it decides isolation, time-outs and the session mark."""

    READ = "read"
    """One consistent snapshot per transaction (REPEATABLE READ; SQLite: a deferred transaction)."""
    WRITE = "write"
    """Subak's own tables: READ COMMITTED; SQLite: BEGIN IMMEDIATE."""
    APPLY = "apply"
    """The applier's: as WRITE, and in every transaction the session is marked, so that the triggers do nothing."""


@dataclass(frozen=True)
class Trigger:
    """A trigger as Subak would create it. `sql` is one CREATE TRIGGER statement."""

    name: str
    table: str
    sql: str


class Dialect(Protocol):
    @property
    def name(self) -> str:
        """The folder under `sql/outlet` and `sql/hub`."""

    @property
    def one_writer(self) -> bool:
        """Whether only one connection can write at a time, and nobody queues: who writes all the time keeps others out."""

    def engine(self, url: URL, purpose: Purpose, *, lock_seconds: float = 1.0) -> Engine:
        """An engine whose connections are set up for `purpose`: UTC, utf8mb4, strict, lock waits of `lock_seconds` at most."""

    def server(self, connection: Connection) -> str:
        """Product and version, for people: 'MariaDB 10.11.6'."""

    def catalogue(self, connection: Connection, patterns: Sequence[str]) -> Catalogue:
        """The application's tables whose names match one of the globs (case does not count), Subak's own left out.

        A table or column that cannot be carried is a refusal; a table with a refusal is not among the tables.
        """

    def triggers(self, connection: Connection, table: Table, catalogue: Catalogue, outlet: str) -> tuple[Trigger, ...]:
        """The triggers `table` should have, rendered from the templates for this server, with `outlet` as the origin."""

    def installed(self, connection: Connection) -> dict[str, Trigger]:
        """Subak's triggers that are there, by name, with their text as the server keeps it."""

    def create_trigger(self, connection: Connection, trigger: Trigger) -> None:
        """Replaces the one of that name, with no moment in between where a change could slip through unseen.

        `connection` is of Purpose.WRITE. MySQL and MariaDB commit it; on SQLite the caller does.
        """

    def drop_trigger(self, connection: Connection, trigger: Trigger) -> None: ...

    def same(self, wanted: Trigger, there: Trigger) -> bool:
        """Whether the trigger that is there does what the wanted one would."""

    def identifier(self, name: str) -> str:
        """`name` quoted for use in a statement."""

    def image_sql(self, table: Table, alias: str) -> str:
        """An SQL expression: the JSON image of the row `alias` (NEW, OLD, or a table alias) of `table`; `wire_image` finishes it.

        For SQLAlchemy it is a `literal_column`, not a `text`: names in it may hold `:` and `%`.
        """

    def key_sql(self, table: Table, alias: str) -> str:
        """An SQL expression: the row key (`values.row_key`) of the row `alias` of `table`."""

    def wire_image(self, image: str) -> str:
        """The image as it goes on the wire, from the text that `image_sql` gave."""

    def row_id(self, row_key: str) -> Any:
        """`RowId`, which stands for that row key in the version table: its SHA-256, or the key itself."""

    def bind(self, column: Column, value: Value) -> Any:
        """A canonical value as the driver wants it for that column.

        Raises PermanentError `value` for what the engine would change without saying so. Only the fraction of a time is rounded to the
        column's digits, half up, the same on every engine.
        """

    def classify(self, error: Exception) -> SubakError:
        """The driver's error as ours; one of ours as it is.

        TransientError: `deadlock`, `lock_timeout`, `busy`, `changed`, `timeout`, `connection`, `read_only`, `disk_full`, `duplicate_key` (a race
        on the primary key). PermanentError: `foreign_key`, `unique`, `check`, `not_null`, `value`, `packet`, `missing_table`,
        `missing_column`, `denied`, `database` (anything else).
        """


def dialect_for(url: str | URL) -> Dialect:
    """Raises PermanentError `engine` for an engine that is not supported."""
    backend = make_url(url).get_backend_name()
    if backend == "sqlite":
        from services.kernel.dialects.sqlite import SQLITE

        return SQLITE
    if backend in ("mysql", "mariadb"):
        from services.kernel.dialects.mysql import MYSQL

        return MYSQL
    raise PermanentError(
        "engine",
        f"{backend} is not an engine that Subak knows.",
        "Use a URL that starts with mysql+pymysql://, mariadb+pymysql:// or sqlite:///.",
    )
