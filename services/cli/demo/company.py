"""The demo company: its databases, and the rows that every outlet starts with."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pymysql
from sqlalchemy.engine import URL

from services.cli.statements import named
from services.kernel.dialects import dialect_for
from services.kernel.errors import PermanentError

HERE = Path(__file__).parent
STATEMENTS = named(HERE / "till.sql")

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


class Application:
    """A shop's connection to its database, by the plain driver: what an application has."""

    def __init__(self, url: URL) -> None:
        self._sqlite = url.get_backend_name() == "sqlite"
        self._connection: Any
        if self._sqlite:
            self._connection = sqlite3.connect(url.database or "", timeout=LOCK_SECONDS, isolation_level=None)
            self._connection.execute("PRAGMA foreign_keys = ON")
            self._connection.execute("PRAGMA synchronous = NORMAL")
        else:
            self._connection = pymysql.connect(
                host=url.host,
                port=url.port or 3306,
                user=url.username,
                password=url.password or "",
                database=url.database,
                charset="utf8mb4",
            )
        self._mark = "?" if self._sqlite else "%s"

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

    def run(self, name: str, *values: Any) -> Sequence[Any]:
        """Executes a statement of till.sql; the rows that it gives."""
        cursor = self._connection.cursor()
        cursor.execute(STATEMENTS[name].replace("?", self._mark), values)
        rows: Sequence[Any] = cursor.fetchall() if cursor.description else ()
        cursor.close()
        return rows

    def script(self, statements: Sequence[str]) -> None:
        cursor = self._connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        cursor.close()

    def close(self) -> None:
        self._connection.close()


def shop_names(count: int) -> tuple[str, ...]:
    return tuple(SHOPS[index] if index < len(SHOPS) else f"shop{index + 1}" for index in range(count))


def write_ahead(url: URL) -> None:
    """Makes an SQLite file keep a write-ahead log, so that readers and the writer do not wait for one another."""
    connection = sqlite3.connect(url.database or "")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()


def found(url: URL, shops: Sequence[str]) -> None:
    """Creates the company's tables in an empty database, with the rows that are the same everywhere."""
    if url.get_backend_name() == "sqlite":
        write_ahead(url)
    application = Application(url)
    application.script(list(named(HERE / f"{dialect_for(url).name}.sql").values()))
    draw = random.Random(1)  # the same photos at every outlet
    with application.transaction():
        for number, (name, price) in enumerate(PRODUCTS, start=1):
            application.run("add_product", number, name, price, draw.randbytes(PHOTO_BYTES))
        for shop in shops:
            for number in range(1, len(PRODUCTS) + 1):
                application.run("add_stock", shop, number, OPENING_STOCK)
        for number, name in enumerate(CUSTOMERS, start=1):
            application.run("add_customer", number, name, f"customer{number}@example.com", 0)
    application.close()


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
        _administer(server, f"CREATE DATABASE `{url.database}` CHARACTER SET utf8mb4")
        self._made.append(url)
        return url

    def drop(self) -> None:
        """The databases on servers; the folder is its owner's to remove."""
        for url in self._made:
            _administer(url, f"DROP DATABASE `{url.database}`")


def _administer(server: URL, statement: str) -> None:
    """Raises PermanentError `server`."""
    try:
        application = Application(server.set(database=None))
        application.script([statement])
        application.close()
    except pymysql.MySQLError as error:
        raise PermanentError(
            "server",
            f"The server of {server.render_as_string(hide_password=True)} refuses: {error}.",
            "Give --database-url the address, user and password of one that runs and may create and drop databases.",
        ) from error
