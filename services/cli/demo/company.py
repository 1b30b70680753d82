"""The demo company: its databases, and the rows that every outlet starts with."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pymysql
from sqlalchemy.engine import URL
from tenacity import Retrying, retry_if_exception, stop_after_attempt

from services.cli.statements import named
from services.kernel.dialects import dialect_for
from services.kernel.errors import PermanentError

HERE = Path(__file__).parent
STATEMENTS = named(HERE / "till.sql")

ATTEMPTS = 5
"""How often a till makes a transaction that a deadlock ends before it gives up."""

SHOPS = ("ubud", "sanur", "amed", "kuta", "lovina", "canggu", "bedugul", "negara")

PRODUCTS = (
    ("Kopi Bali 250 g", "4.90"),
    ("Crème brûlée", "6.50"),
    ("抹茶ラテ", "5.20"),
    ("Пирожки с капустой", "3.75"),
    ("O'Brien's stout", "7.10"),
    ("🍋 Limonade", "2.95"),
    ("Back\\slash biscuits", "1.99"),
    ("Smørrebrød, stor", "8.40"),
    ('Nasi goreng "spesial"', "5.60"),
    ("김치 1 kg", "9.99"),
    ("Sambal oelek  ", "2.35"),
    ("Ünsal zeytini", "4.15"),
    ("टमाटर की चटनी", "3.20"),
    ("100 % arabica; strong", "11.00"),
    ("Pão de queijo", "0.85"),
    ("תה נענע", "1.45"),
)

CUSTOMERS = (
    "Ni Wayan Sari",
    "Zoë Müller",
    "山田 太郎",
    "Сергей Иванов",
    "Seán O'Casey",
    "José Núñez",
    "Made Putra",
    "علي حسن",
)

OPENING_STOCK = 10_000
PHOTO_BYTES = 3000
LOCK_SECONDS = 20
"""How long the shops' application waits for a lock before it calls it an error."""

CONNECT_SECONDS = 10
"""A server that does not answer by then is taken for unreachable."""


class Application:
    """A shop's connection to its database, by the plain driver: what an application has."""

    def __init__(self, url: URL) -> None:
        engine = url.get_backend_name()
        self._sqlite = engine == "sqlite"
        self._mssql = engine == "mssql"
        self._dialect = dialect_for(url)
        self._connection: Any = {"sqlite": _sqlite, "mssql": _mssql}.get(engine, _mysql)(url)
        self._mark = "?" if engine in ("sqlite", "mssql") else "%s"

    @contextmanager
    def transaction(self) -> Iterator[None]:
        if self._sqlite:
            self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            with suppress(Exception):  # what went wrong first is what matters
                self._connection.rollback()
            raise
        self._connection.commit()

    def make(self, act: Callable[[], None]) -> int:
        """`act` as one transaction, and again while a deadlock makes it the victim, as applications must where there are locks.

        Returns how often it was made again. Raises the database's error when it refuses, or after ATTEMPTS deadlocks.
        """
        attempts = Retrying(
            retry=retry_if_exception(self._is_deadlock), stop=stop_after_attempt(ATTEMPTS), reraise=True
        )
        for attempt in attempts:
            with attempt, self.transaction():
                act()
        return int(attempts.statistics["attempt_number"]) - 1

    def _is_deadlock(self, error: BaseException) -> bool:
        return isinstance(error, Exception) and self._dialect.classify(error).code == "deadlock"

    def run(self, name: str, *values: Any) -> Sequence[Any]:
        """Executes a statement of till.sql; the rows that it gives."""
        cursor = self._connection.cursor()
        cursor.execute(STATEMENTS[name].replace("?", self._mark), values)
        rows: Sequence[Any] = cursor.fetchall() if cursor.description else ()
        cursor.close()
        return rows

    def script(self, statements: Sequence[str]) -> None:
        """Each statement by itself, in no transaction."""
        if self._mssql:
            self._connection.autocommit = True
        cursor = self._connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        cursor.close()
        if self._mssql:
            self._connection.autocommit = False

    def close(self) -> None:
        self._connection.close()


def _sqlite(url: URL) -> sqlite3.Connection:
    connection = sqlite3.connect(url.database or "", timeout=LOCK_SECONDS, isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def _mysql(url: URL) -> pymysql.Connection:
    return pymysql.connect(
        host=url.host,
        port=url.port or 3306,
        user=url.username,
        password=url.password or "",
        database=url.database,
        charset="utf8mb4",
        connect_timeout=CONNECT_SECONDS,
    )


def _mssql(url: URL) -> Any:
    import pyodbc  # not everywhere that this module is: only outlets on SQL Server need it

    from services.kernel.dialects.mssql.driver import with_driver

    url = with_driver(url)
    (text,), options = url.get_dialect()().create_connect_args(url)
    connection = pyodbc.connect(text, timeout=CONNECT_SECONDS, **options)
    connection.execute(f"SET LOCK_TIMEOUT {LOCK_SECONDS * 1000}")
    connection.commit()
    return connection


def shop_names(count: int) -> tuple[str, ...]:
    return tuple(SHOPS[index] if index < len(SHOPS) else f"shop{index + 1}" for index in range(count))


def write_ahead(url: URL) -> None:
    """Makes an SQLite file keep a write-ahead log, so that readers and the writer do not wait for one another."""
    connection = sqlite3.connect(url.database or "")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()


def found(url: URL, shops: Sequence[str], there: Collection[str] = ()) -> None:
    """Creates the company's tables, but for those that are `there`, with the rows that are the same everywhere if there are none."""
    if url.get_backend_name() == "sqlite":
        write_ahead(url)
    application = Application(url)
    try:
        tables = named(HERE / f"{dialect_for(url).name}.sql")
        application.script([statement for table, statement in tables.items() if table not in there])
        with application.transaction():
            ((products,),) = application.run("count_products")
            if not products:
                _open(application, shops)
    finally:
        application.close()


def _open(application: Application, shops: Sequence[str]) -> None:
    draw = random.Random(1)  # the same photos at every outlet
    for number, (name, price) in enumerate(PRODUCTS, start=1):
        application.run("add_product", number, name, price, draw.randbytes(PHOTO_BYTES))
    for shop in shops:
        for number in range(1, len(PRODUCTS) + 1):
            application.run("add_stock", shop, number, OPENING_STOCK)
    for number, name in enumerate(CUSTOMERS, start=1):
        application.run("add_customer", number, name, f"customer{number}@example.com", 0)


class Site:
    """Where the outlets' databases are made: files in `folder`, or new databases on the servers that `urls` name.

    A URL's own database is not touched; the new ones' names begin with `prefix`. `sqlite://` stands for a file.
    """

    def __init__(self, folder: Path, urls: Sequence[URL], prefix: str) -> None:
        self._folder = folder
        self._urls = urls or (URL.create("sqlite"),)
        self._prefix = prefix
        self._made: list[URL] = []

    def create(self, index: int, shop: str) -> URL:
        """Raises PermanentError `server`."""
        server = self._urls[index % len(self._urls)]
        if server.get_backend_name() == "sqlite":
            return URL.create("sqlite", database=str(self._folder / f"{shop}.db"))
        url = server.set(database=f"{self._prefix}_{shop}")
        mssql = url.get_backend_name() == "mssql"
        _administer(server, f"CREATE DATABASE {_quoted(url)}{'' if mssql else ' CHARACTER SET utf8mb4'}")
        self._made.append(url)
        if mssql:
            _administer(server, _LET_READ.format(name=url.database))
        return url

    def drop(self) -> None:
        """The databases on servers; the folder is its owner's to remove."""
        for url in self._made:
            if url.get_backend_name() == "mssql":
                with suppress(PermanentError):  # not every server knows this, nor needs it
                    _administer(url, f"ALTER DATABASE {_quoted(url)} SET SINGLE_USER WITH ROLLBACK IMMEDIATE")
            _administer(url, f"DROP DATABASE {_quoted(url)}")


_LET_READ = (
    "IF EXISTS (SELECT 1 FROM sys.databases WHERE name = '{name}' AND snapshot_isolation_state = 0)"
    " EXEC ('ALTER DATABASE [{name}] SET ALLOW_SNAPSHOT_ISOLATION ON')"
)
"""Who looks on keeps no till waiting."""


def _quoted(url: URL) -> str:
    return f"[{url.database}]" if url.get_backend_name() == "mssql" else f"`{url.database}`"


def _refusals(server: URL) -> type[Exception]:
    """What its driver raises."""
    if server.get_backend_name() != "mssql":
        return pymysql.MySQLError
    import pyodbc

    refusals: type[Exception] = pyodbc.Error
    return refusals


def _administer(server: URL, statement: str) -> None:
    """Raises PermanentError `server`."""
    database = "master" if server.get_backend_name() == "mssql" else None
    try:
        application = Application(server.set(database=database))
        try:
            application.script([statement])
        finally:
            application.close()
    except _refusals(server) as error:
        said = error.args[1] if server.get_backend_name() == "mssql" and len(error.args) > 1 else error
        raise PermanentError(
            "server",
            f"The server of {server.render_as_string(hide_password=True)} refuses: {' '.join(str(said).split())}.",
            "Give --database-url the address, user and password of one that runs and may create and drop databases.",
        ) from error
