"""Schemas for tests, in the words of each engine, and the loading of the same rows into every outlet."""

from __future__ import annotations

import re
from collections.abc import Iterable

from sqlalchemy.engine import URL

from tests.stack.application import application_engine

_GENERATED = {
    "sqlite": "INTEGER PRIMARY KEY AUTOINCREMENT",
    "mysql": "INT NOT NULL AUTO_INCREMENT PRIMARY KEY",
    "mariadb": "INT NOT NULL AUTO_INCREMENT PRIMARY KEY",
    "mssql": "INT NOT NULL IDENTITY(1, 1) PRIMARY KEY",
}

SHOP = """\
CREATE TABLE category (
    id {generated},
    parent_id INT NULL,
    title VARCHAR(60) NOT NULL,
    FOREIGN KEY (parent_id) REFERENCES category (id)
);
CREATE TABLE product (
    id {generated},
    category_id INT NULL,
    sku VARCHAR(40) NOT NULL UNIQUE,
    title VARCHAR(120) NOT NULL,
    price DECIMAL(10, 2) NOT NULL,
    weight DOUBLE NULL,
    picture BLOB NULL,
    since DATE NULL,
    FOREIGN KEY (category_id) REFERENCES category (id)
);
CREATE TABLE customer (
    code VARCHAR(20) NOT NULL PRIMARY KEY,
    name VARCHAR(80) NOT NULL,
    note VARCHAR(300) NULL
);
CREATE TABLE sale (
    id {generated},
    customer_code VARCHAR(20) NULL,
    made_at DATETIME{fraction} NOT NULL,
    total DECIMAL(12, 2) NOT NULL,
    FOREIGN KEY (customer_code) REFERENCES customer (code)
);
CREATE TABLE sale_line (
    sale_id INT NOT NULL,
    product_id INT NOT NULL,
    quantity INT NOT NULL,
    PRIMARY KEY (sale_id, product_id),
    FOREIGN KEY (sale_id) REFERENCES sale (id),
    FOREIGN KEY (product_id) REFERENCES product (id)
);
"""
"""A small shop: foreign keys, a self-reference, a text key, a composite key, a unique value, decimals, a blob."""

ACCOUNTS = """\
CREATE TABLE account (
    id INT NOT NULL PRIMARY KEY,
    owner VARCHAR(40) NOT NULL,
    balance DECIMAL(14, 2) NOT NULL
);
"""

NOTES = """\
CREATE TABLE note (
    id {generated},
    author VARCHAR(40) NOT NULL,
    body VARCHAR(200) NOT NULL
);
"""


def statements(schema: str, url: URL) -> list[str]:
    engine = url.get_backend_name()
    fraction = "" if engine == "sqlite" else "(6)"
    sql = schema.format(generated=_GENERATED[engine], fraction=fraction)
    if engine == "mssql":
        sql = _UNIQUE_BUT_NULL.sub(_filtered, sql)
    return [statement.strip() for statement in sql.split(";\n") if statement.strip()]


_UNIQUE_BUT_NULL = re.compile(
    r"(CREATE TABLE (\w+) \((?:(?!;\n).)*?\n *(\w+) [A-Z()0-9]+ NULL) UNIQUE(.*?;\n)", re.DOTALL
)


def _filtered(found: re.Match[str]) -> str:
    """A UNIQUE of SQL Server's takes one NULL only: there such a column has an index that leaves them out."""
    before, table, column, after = found.groups()
    return f"{before}{after}CREATE UNIQUE INDEX {table}_{column} ON {table} ({column}) WHERE {column} IS NOT NULL;\n"


def load(url: URL, schema: str, rows: Iterable[str] = ()) -> None:
    """Makes the tables, then runs the statements in `rows`, in one transaction."""
    engine = application_engine(url)
    with engine.begin() as connection:
        for statement in (*statements(schema, url), *rows):
            connection.exec_driver_sql(statement)
    engine.dispose()


def shop_rows() -> list[str]:
    """The same few rows for every outlet to start with."""
    categories = [
        f"INSERT INTO category (id, parent_id, title) VALUES ({n}, NULL, 'category {n}')" for n in range(1, 4)
    ]
    categories += [f"INSERT INTO category (id, parent_id, title) VALUES ({n}, {n - 3}, 'below')" for n in range(4, 9)]
    products = [
        "INSERT INTO product (id, category_id, sku, title, price, weight, picture, since)"
        f" VALUES ({n}, {n % 8 + 1}, 'sku-{n}', 'Kopi Ubud {n} ☕', {n}.25, 0.5, NULL, '2024-02-29')"
        for n in range(1, 31)
    ]
    customers = [f"INSERT INTO customer (code, name, note) VALUES ('c{n}', 'Wayan {n}', NULL)" for n in range(1, 16)]
    sales = [
        "INSERT INTO sale (id, customer_code, made_at, total)"
        f" VALUES ({n}, 'c{n % 15 + 1}', '2024-05-01 10:00:00.{n:06}', {n}.50)"
        for n in range(1, 21)
    ]
    lines = [
        f"INSERT INTO sale_line (sale_id, product_id, quantity) VALUES ({n}, {(n + step) % 30 + 1}, {step})"
        for n in range(1, 21)
        for step in (0, 10)
    ]
    return categories + products + customers + sales + lines
