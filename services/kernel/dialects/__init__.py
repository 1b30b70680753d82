"""What differs between the engines, and nothing else. One module per engine, each with one object that has this shape.

`dialect_for` is the only place that looks at a URL's backend. SQL that an engine needs stands in `sql/outlet/<name>/`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import ColumnElement, Connection, Engine, FromClause, Select, make_url
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


class Lease(Protocol):
    """What one process at a time has of a database. It goes with the process, or with its connection to the database."""

    def holds(self) -> bool:
        """Whether it is still ours, as the database says now; False when it does not answer."""

    def release(self) -> None: ...


class Dialect(Protocol):
    @property
    def name(self) -> str:
        """The folder under `sql/outlet` and `sql/hub`."""

    @property
    def schema(self) -> str | None:
        """Where Subak's own tables are: a schema of their own, or with the application's."""

    @property
    def locks_what_it_reads(self) -> bool:
        """Whether `locking` holds a row for certain. If not, versions are looked at again after the rows were written."""

    @property
    def rights_todo(self) -> str:
        """What gives Subak's user the rights that it lacks, for an administrator."""

    @property
    def replace_version(self) -> Sequence[str]:
        """Statements that, run in their order with the same parameters, put rows into subak_version, or in the place of those there."""

    @property
    def one_writer(self) -> bool:
        """Whether only one connection can write at a time, and nobody queues: who writes all the time keeps others out."""

    def engine(self, url: URL, purpose: Purpose, *, lock_seconds: float = 1.0) -> Engine:
        """An engine whose connections are set up for `purpose`: UTC, utf8mb4, strict, lock waits of `lock_seconds` at most."""

    def server(self, connection: Connection) -> str:
        """Product and version, for people: 'MariaDB 10.11.6'."""

    def now(self, connection: Connection) -> int:
        """The database's clock, from which the triggers take their stamps: µs since 1970 UTC."""

    def lease(self, url: URL, role: str) -> Lease | None:
        """The lease named `role` of the database at `url`; None while another process has it. Raises what the driver raises."""

    def scans_a_snapshot(self, connection: Connection) -> bool:
        """Whether one SELECT on this connection (of Purpose.READ) sees one moment: no transaction in part, and waits for nobody."""

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

    def relation(self, table: Table) -> str:
        """The table's name for use in a statement: quoted, with its schema."""

    def locking(self, query: Select[Any], here: FromClause, *, share: bool, patient: bool) -> Select[Any]:
        """`query`, which reads rows of the one table `here`, so that they are locked until the transaction ends: against
        deletion and changes of the key (`share`), or against any write. Unless `patient`, a lock that another holds is an error at once.
        """

    def passing(self, query: Select[Any], here: FromClause) -> Select[Any]:
        """`query`, which reads the one table `here`, so that it passes by rows that others have locked. For where
        `scans_a_snapshot` is false."""

    def compared(self, column: Column, value: Any) -> ColumnElement[Any]:
        """A value that `bind` gave, or a bind parameter for one, as an expression to compare the column with."""

    def written(self, column: Column, value: Any) -> ColumnElement[Any]:
        """The same, as an expression to write into the column."""

    def inserting(self, connection: Connection, table: Table) -> AbstractContextManager[None]:
        """Around INSERTs that give generated keys themselves: the generator goes on afterwards where it stood."""

    def keys_from(self, connection: Connection, table: Table, first: int) -> int | None:
        """Lets the table's generator give `first` next, or the first one after it that it can give, which is returned. None: it has
        none that can be set. MySQL and MariaDB commit `connection`."""

    def image_sql(self, table: Table, alias: str) -> str:
        """An SQL expression: the JSON image of the row `alias` (NEW, OLD, or a table alias) of `table`; `wire_image` finishes it.

        For SQLAlchemy it is a `literal_column`, not a `text`: names in it may hold `:` and `%`.
        """

    def key_sql(self, table: Table, alias: str) -> str:
        """An SQL expression: the row key (`values.row_key`) of the row `alias` of `table`."""

    def wire_image(self, image: str, table: Table | None) -> str:
        """The image as it goes on the wire, from the text that `image_sql` or a trigger gave. See `needs_table`."""

    def needs_table(self, image: str) -> bool:
        """Whether `wire_image` must be given the table as it is now: a trigger older than the table has spelled the image."""

    def row_id(self, row_key: str) -> Any:
        """`RowId`, which stands for that row key in the version table: its SHA-256, or the key itself."""

    def bind(self, column: Column, value: Value) -> Any:
        """A canonical value as the driver wants it for that column.

        Raises PermanentError `value` for what the engine would change without saying so. Only the fraction of a time is rounded to the
        column's digits, half up, the same on every engine.
        """

    def classify(self, error: Exception) -> SubakError:
        """The driver's error as ours; one of ours as it is.

        TransientError: `deadlock`, `lock_timeout`, `busy`, `changed`, `ended`, `timeout`, `connection`, `read_only`, `disk_full`, `duplicate_key` (a race
        on the primary key). PermanentError: `foreign_key`, `unique`, `check`, `not_null`, `value`, `packet`, `missing_table`,
        `missing_column`, `denied`, `database` (anything else).
        """


def require_file(url: URL, *, may_be_away: bool = False) -> None:
    """Raises PermanentError `no_database` for an SQLite file that is not there: opening it would make an empty one.

    `may_be_away`: where its folder is missing too, it is not mounted yet, and nothing would be made.
    """
    path = Path(url.database or "") if url.get_backend_name() == "sqlite" else None
    if path and not path.exists() and (path.parent.is_dir() or not may_be_away):
        raise PermanentError("no_database", f"There is no file {url.database}.", "Correct the path in the URL.")


def dialect_for(url: str | URL) -> Dialect:
    """Raises PermanentError `engine` for an engine that is not supported, `driver` where what SQL Server needs is not installed."""
    backend = make_url(url).get_backend_name()
    if backend == "sqlite":
        from services.kernel.dialects.sqlite import SQLITE

        return SQLITE
    if backend in ("mysql", "mariadb"):
        from services.kernel.dialects.mysql import MYSQL

        return MYSQL
    if backend == "mssql":
        try:
            import pyodbc  # noqa: F401
        except ImportError as error:
            todo = "Install it: pip install pyodbc."
            if "libodbc" in str(error):  # pyodbc is here, and what it stands on is not: no wheel brings that along
                todo = "Install unixODBC (Debian and Ubuntu: apt-get install unixodbc; Red Hat: dnf install unixODBC)."
            raise PermanentError("driver", f"SQL Server's driver is not here: {error}.", todo) from error
        from services.kernel.dialects.mssql import MSSQL

        return MSSQL
    raise PermanentError(
        "engine",
        f"{backend} is not an engine that Subak knows.",
        "Use a URL that starts with mssql+pyodbc://, mysql+pymysql://, mariadb+pymysql:// or sqlite:///.",
    )
