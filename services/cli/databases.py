"""Opening the database that a command is about, with errors that say whose turn it is."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, make_url, select
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from services.hub.queue import Queue
from services.kernel.dialects import Dialect, Purpose, dialect_for, require_file
from services.kernel.errors import PermanentError
from services.kernel.schema import STATE, is_prepared
from services.kernel.settings import HubDatabaseSettings, OutletDatabaseSettings, load_or_exit

HUB_VARIABLE = "SUBAK_HUB_DATABASE_URL"
OUTLET_VARIABLE = "SUBAK_DATABASE_URL"


def parsed(text: str) -> URL:
    """Raises PermanentError `url` or `engine`."""
    try:
        url: URL = make_url(text)
        dialect_for(url)
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise PermanentError(
            "url",
            "What was given as a database URL is none.",  # and may hold a password: it is not shown, nor is why
            "Write it as mysql+pymysql://user:password@host:3306/database or sqlite:////path/to/file.db; in a password each of "
            "@ : / % ? # is written as % and its code.",
        ) from None
    return url


def shown(url: URL) -> str:
    return url.render_as_string(hide_password=True)


def concerns_hub() -> bool:
    """Whether the environment names the hub's database; if not, the command is about an outlet's.

    Raises PermanentError `setting` when it names neither.
    """
    for variable, hub in ((HUB_VARIABLE, True), (OUTLET_VARIABLE, False)):
        if os.environ.get(variable) or os.environ.get(f"{variable}_FILE"):
            return hub
    raise PermanentError(
        "setting",
        "No database is named.",
        f"Set {HUB_VARIABLE} for the hub's view, or {OUTLET_VARIABLE} for an outlet's.",
    )


def hub_url() -> URL:
    return load_or_exit(HubDatabaseSettings).database_url


def outlet_settings() -> OutletDatabaseSettings:
    return load_or_exit(OutletDatabaseSettings)


@contextmanager
def opened(url: URL, purpose: Purpose = Purpose.READ) -> Iterator[tuple[Engine, Dialect]]:
    """An engine for as long as a command needs it. What the driver raises meanwhile becomes a SubakError.

    Raises PermanentError `no_database` for an SQLite file that is not there: opening it would make an empty one.
    """
    dialect = dialect_for(url)
    require_file(url)
    engine = dialect.engine(url, purpose)
    try:
        yield engine, dialect
    except DBAPIError as error:
        raise dialect.classify(error) from error
    finally:
        engine.dispose()


@contextmanager
def plainly(url: URL) -> Iterator[None]:
    """What the engine's plain driver raises meanwhile, used without SQLAlchemy, becomes a SubakError."""
    errors = url.get_dialect().import_dbapi().Error
    try:
        yield
    except errors as error:
        raise dialect_for(url).classify(error) from error


@contextmanager
def hub_to_change(url: URL) -> Iterator[Engine]:
    """A hub's database, its tables created where missing: outlets may be added before the hub first runs."""
    dialect = dialect_for(url)
    engine = dialect.engine(url, Purpose.WRITE)
    try:
        Queue(dialect, engine, engine, now).prepare()
        yield engine
    except DBAPIError as error:
        raise dialect.classify(error) from error
    finally:
        engine.dispose()


@contextmanager
def hub_to_read(url: URL) -> Iterator[Engine]:
    """Raises PermanentError `not_prepared` when it is no hub's database."""
    with opened(url) as (engine, _):
        with engine.connect() as connection:
            require_prepared(connection, url)
        yield engine


def now() -> int:
    """µs since 1970 UTC."""
    return time.time_ns() // 1000


@contextmanager
def connected(url: URL, purpose: Purpose = Purpose.READ) -> Iterator[tuple[Connection, Dialect]]:
    """One connection, in one transaction that is not committed unless the command does."""
    with opened(url, purpose) as (engine, dialect), engine.connect() as connection:
        yield connection, dialect


def require_prepared(connection: Connection, url: URL) -> None:
    """Raises PermanentError `not_prepared` where Subak's own tables are missing."""
    if not is_prepared(connection):
        raise PermanentError(
            "not_prepared",
            f"There are no tables of Subak in {shown(url)}.",
            "Start the hub, or run `subak triggers install` at the outlet; or correct the URL.",
        )


def state(connection: Connection, name: str) -> str | None:
    """A fact that Subak keeps about this database."""
    value = connection.scalar(select(STATE.c.Value).where(STATE.c.Name == name))
    return None if value is None else str(value)


def outlet_name(engine: Engine, settings: OutletDatabaseSettings) -> str:
    """SUBAK_OUTLET, or the name that the triggers here were made with. Raises PermanentError `setting`."""
    if settings.outlet:
        return settings.outlet
    with engine.connect() as connection:
        known = state(connection, "outlet") if is_prepared(connection) else None
    if known is None:
        raise PermanentError("setting", "The outlet has no name yet.", "Set SUBAK_OUTLET to it.")
    return known
