"""The company that is put through it: its tables, the rows it begins with, and its own triggers that note what was done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.stack.network import Outlet

KEEP_DAYS = 0.001
"""A minute and a half: in a long run what everybody has executed is forgotten meanwhile, and no backup is as old as that."""

POLICY = """\
[tables.stock]
delta = ["on_hand"]

[tables.customer]
rule = "column"
"""

PAIRS = 3
"""Pairs of accounts that each outlet owns; only its own tills move amounts, within one pair."""

BALANCE = 1000
STOCK_ROWS = 4
ON_HAND = 500
HOT_ROWS = 5
CUSTOMERS = 4
CUSTOMER_COLUMNS = ("name", "phone", "city")

SCHEMA = """\
CREATE TABLE operation (
    id VARCHAR(40) NOT NULL PRIMARY KEY,
    outlet VARCHAR(20) NOT NULL,
    row_count INT NOT NULL
);
CREATE TABLE operation_line (
    operation_id VARCHAR(40) NOT NULL,
    n INT NOT NULL,
    body VARCHAR(60) NOT NULL,
    PRIMARY KEY (operation_id, n),
    FOREIGN KEY (operation_id) REFERENCES operation (id)
);
CREATE TABLE account (
    id INT NOT NULL PRIMARY KEY,
    owner VARCHAR(20) NOT NULL,
    balance INT NOT NULL
);
CREATE TABLE stock (
    id INT NOT NULL PRIMARY KEY,
    on_hand INT NOT NULL
);
CREATE TABLE customer (
    id INT NOT NULL PRIMARY KEY,
    name VARCHAR(60) NOT NULL,
    phone VARCHAR(60) NOT NULL,
    city VARCHAR(60) NOT NULL
);
CREATE TABLE hot (
    id INT NOT NULL PRIMARY KEY,
    body VARCHAR(60) NOT NULL
);
CREATE TABLE note (
    id INT NOT NULL PRIMARY KEY,
    body VARCHAR(60) NOT NULL
);
CREATE TABLE effect (
    id {generated},
    kind VARCHAR(30) NOT NULL,
    name VARCHAR(60) NOT NULL,
    body VARCHAR(60) NOT NULL
);
"""
"""Every committed transaction of a till is one `operation` with `row_count` lines, which are never changed. `effect` is not
synchronised: the application's own triggers fill it at every outlet."""

SYNCHRONISED = ("operation", "operation_line", "account", "stock", "customer", "hot", "note")

_EFFECTS = (
    ("operation_line", "INSERT", "NEW", "operation_id"),
    ("note", "INSERT", "NEW", "id"),
    ("note", "UPDATE", "NEW", "id"),
    ("note", "DELETE", "OLD", "id"),
)
"""Table, event, the row that is noted, and its column that names it. Every body that is written is another."""


def rows(outlets: Sequence[str]) -> Iterator[str]:
    """What every outlet begins with."""
    for number, (owner, _, _) in enumerate(accounts(outlets), start=1):
        yield f"INSERT INTO account (id, owner, balance) VALUES ({number}, '{owner}', {BALANCE})"
    for number in range(1, STOCK_ROWS + 1):
        yield f"INSERT INTO stock (id, on_hand) VALUES ({number}, {ON_HAND})"
    for number in range(1, CUSTOMERS + 1):
        yield f"INSERT INTO customer (id, name, phone, city) VALUES ({number}, 'name', 'phone', 'city')"
    for number in range(1, HOT_ROWS + 1):
        yield f"INSERT INTO hot (id, body) VALUES ({number}, 'hot')"


def accounts(outlets: Sequence[str]) -> Iterator[tuple[str, int, int]]:
    """Owner, pair, and which of the pair, in the order of the accounts' ids from 1."""
    for outlet in outlets:
        for pair in range(PAIRS):
            for side in range(2):
                yield outlet, pair, side


def pairs_of(outlet: str, outlets: Sequence[str]) -> list[tuple[int, int]]:
    """The ids of each pair that the outlet owns."""
    first = list(outlets).index(outlet) * PAIRS * 2 + 1
    return [(first + pair * 2, first + pair * 2 + 1) for pair in range(PAIRS)]


def add_effects(outlet: Outlet) -> None:
    for table, event, row, name in _EFFECTS:
        kind, trigger = f"{table} {event.lower()}", f"app_{table}_{event.lower()}"
        if outlet.engine_name == "mssql":
            there = {"NEW": "inserted", "OLD": "deleted"}[row]
            statement = f"INSERT INTO effect (kind, name, body) SELECT '{kind}', {name}, body FROM {there}"
            outlet.execute(
                f"CREATE TRIGGER {trigger} ON {table} AFTER {event} AS BEGIN SET NOCOUNT ON; {statement}; END"
            )
            continue
        statement = f"INSERT INTO effect (kind, name, body) VALUES ('{kind}', {row}.{name}, {row}.body)"
        outlet.execute(f"CREATE TRIGGER {trigger} AFTER {event} ON {table} FOR EACH ROW BEGIN {statement}; END")


def settings(folder: Path) -> dict[str, str]:
    """What the hub's environment has besides: `stock` adds every change up, and columns of `customer` do not take each other along."""
    file = folder / "policy.toml"
    file.write_text(POLICY, "utf-8")
    return {"SUBAK_POLICY_FILE": str(file), "SUBAK_KEEP_DAYS": str(KEEP_DAYS)}
