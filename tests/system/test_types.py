"""Every column type an engine can hold survives every pair of engines, there and back, through the real services."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import text

from tests.conftest import MakeNetwork
from tests.stack.audit import audit, same
from tests.stack.network import Network, Outlet

COLUMNS = {
    # name: (as MySQL and MariaDB declare it, as SQLite does, as SQL Server does, the auditor's kind)
    "touched": ("INT NOT NULL DEFAULT 0", "INT NOT NULL DEFAULT 0", "INT NOT NULL DEFAULT 0", "integer"),
    "tiny": ("TINYINT", "TINYINT", "SMALLINT", "integer"),
    "small": ("SMALLINT", "SMALLINT", "SMALLINT", "integer"),
    "medium": ("MEDIUMINT", "MEDIUMINT", "INT", "integer"),
    "plain": ("INT", "INT", "INT", "integer"),
    "big": ("BIGINT", "BIGINT", "BIGINT", "integer"),
    "positive": ("INT UNSIGNED", "BIGINT", "BIGINT", "integer"),
    "yes": ("BOOLEAN", "BOOLEAN", "BIT", "boolean"),
    "bit_one": ("BIT(1)", "BIT", "BIT", "bits"),
    "bits": ("BIT(40)", "BIT", "BIGINT", "bits"),
    "money": ("DECIMAL(10, 2)", "DECIMAL(10, 2)", "DECIMAL(10, 2)", "decimal"),
    "exact": ("DECIMAL(38, 10)", "DECIMAL_TEXT(38, 10)", "DECIMAL(38, 10)", "decimal"),
    "single": ("FLOAT", "FLOAT", "REAL", "float"),
    "wide": ("DOUBLE", "DOUBLE", "FLOAT", "float"),
    "day": ("DATE", "DATE", "DATE", "date"),
    "clock": ("TIME(6)", "TIME", "TIME(6)", "time"),
    "moment": ("DATETIME(6)", "DATETIME", "DATETIME2(6)", "datetime"),
    "whole": ("DATETIME", "DATETIME", "DATETIME2(0)", "datetime"),
    "stamped": ("TIMESTAMP(6) NULL", "TIMESTAMP", "DATETIME2(6)", "datetime"),
    "year": ("YEAR", "YEAR", "SMALLINT", "integer"),
    "fixed": ("CHAR(12)", "CHAR(12)", "NCHAR(12)", "char"),
    "short": ("VARCHAR(200)", "VARCHAR(200)", "NVARCHAR(400)", "text"),
    "long": ("LONGTEXT", "TEXT", "NVARCHAR(MAX)", "text"),
    "fixed_bytes": ("BINARY(8)", "BINARY(8)", "BINARY(8)", "binary"),
    "few_bytes": ("VARBINARY(300)", "VARBINARY(300)", "VARBINARY(300)", "binary"),
    "many_bytes": ("LONGBLOB", "BLOB", "VARBINARY(MAX)", "binary"),
    "choice": ("ENUM('one', 'two three', 'q''uote')", "VARCHAR(20)", "NVARCHAR(20)", "text"),
    "several": ("SET('a', 'b', 'c')", "VARCHAR(20)", "NVARCHAR(20)", "text"),
    "document": ("JSON", "JSON", "NVARCHAR(MAX)", "json"),
}

_noise = random.Random(1).randbytes(1024 * 1024)

ROWS: dict[str, dict[str, Any]] = {
    "nothing": {name: None for name in COLUMNS if name != "touched"},
    "least": {
        "tiny": -128,
        "small": -32768,
        "medium": -8388608,
        "plain": -(2**31),
        "big": -(2**63),
        "positive": 0,
        "yes": False,
        "bit_one": 0,
        "bits": 0,
        "money": Decimal("-99999999.99"),
        "exact": Decimal("-9999999999999999999999999999.9999999999"),
        "single": -0.5,
        "wide": -1.7976931348623157e308,
        "day": date(1000, 1, 1),
        "clock": -timedelta(hours=838, minutes=59, seconds=59),
        "moment": datetime(1000, 1, 1),
        "whole": datetime(1000, 1, 1),
        "stamped": datetime(1970, 1, 2),
        "year": 1901,
        "fixed": "",
        "short": "",
        "long": "",
        "fixed_bytes": b"\0" * 8,
        "few_bytes": b"",
        "many_bytes": b"",
        "choice": "one",
        "several": "",
        "document": "{}",
    },
    "most": {
        "tiny": 127,
        "small": 32767,
        "medium": 8388607,
        "plain": 2**31 - 1,
        "big": 2**63 - 1,
        "positive": 2**32 - 1,
        "yes": True,
        "bit_one": 1,
        "bits": 2**40 - 1,
        "money": Decimal("99999999.99"),
        "exact": Decimal("9999999999999999999999999999.9999999999"),
        "single": 1024.25,
        "wide": 1.7976931348623157e308,
        "day": date(9999, 12, 31),
        "clock": timedelta(hours=838, minutes=59, seconds=59),
        "moment": datetime(9999, 12, 31, 23, 59, 59, 999999),
        "whole": datetime(9999, 12, 31, 23, 59, 59),
        "stamped": datetime(2038, 1, 18, 3, 14, 7, 999999),
        "year": 2155,
        "fixed": "日本語日本語日本語日本語",
        "short": "🌾" * 200,
        "long": "padi 水田 🏝️ " * 20000,
        "fixed_bytes": b"\xff" * 8,
        "few_bytes": bytes(range(256)),
        "many_bytes": _noise,
        "choice": "two three",
        "several": "a,b,c",
        "document": '{"text": "naïve \\"quoted\\" \\\\ 🌾", "list": [1, null, true, {"deep": []}], "empty": ""}',
    },
    "awkward": {
        "money": Decimal("0.10"),
        "exact": Decimal("0.0000000001"),
        "single": 0.0,
        "wide": 0.1,
        "day": date(2024, 2, 29),
        "clock": -timedelta(microseconds=1),
        "moment": datetime(2024, 2, 29, 12, 0, 0, 1),
        "whole": datetime(2024, 2, 29),
        "stamped": datetime(2024, 3, 31, 1, 30, 0, 120000),
        "fixed": "O'Hara",
        "short": "O'Brien \"quoted\" back\\slash \\n \\' %s %(x)s :colon ; -- /* ` trailing   ",
        "long": "line\nbreak\r\n\ttab \x01\x1f control \x7f, byte order \ufeff mark, combining e\u0301 ",
        "fixed_bytes": b"\\'\";\0%s\n",
        "few_bytes": b"\0\0trailing blanks  ",
        "many_bytes": b"\xff\xfe\0",
        "choice": "q'uote",
        "several": "b",
        "document": '["a", "a", 0.5, -1, 12345678901]',
    },
    "tiny fractions": {
        "wide": 5e-324,
        "exact": Decimal("-1234567890123456789012345678.0123456789"),
        "short": " ",
        "long": "null",
        "clock": timedelta(hours=1, microseconds=123456),
        "document": '"text"',
    },
    "thirds": {"wide": 1 / 3, "short": "0", "long": "   ", "money": Decimal("1000.00"), "document": "[]"},
    "large double": {"wide": 1e22, "short": "1e3", "money": Decimal("-0.01"), "fixed": "0012"},
    "seventeen digits": {"wide": 123456789.12345679, "short": "0x41", "document": '{"b": 1, "a": 2}'},
}

ZONE = timedelta(hours=8)
"""The MySQL applications' session zone: a TIMESTAMP travels in UTC all the same."""


SQL_SERVER_LACKS: dict[str, Callable[[Any], bool]] = {
    "clock": lambda clock: not timedelta() <= clock < timedelta(days=1),
    "wide": lambda number: 0 < abs(number) < 2.0**-1022,
    "document": lambda text: text[0] not in "{[",
}
"""What is left out, by column, where a SQL Server takes part."""


def _rows(mix: Collection[str]) -> Iterator[dict[str, Any]]:
    for row in ROWS.values():
        if "mssql" not in mix:
            yield row
        else:
            yield {name: None if value is not None and _lacks(name, value) else value for name, value in row.items()}


def _lacks(name: str, value: Any) -> bool:
    return name in SQL_SERVER_LACKS and SQL_SERVER_LACKS[name](value)


def _declared(outlet: Outlet, name: str) -> str:
    return COLUMNS[name][{"sqlite": 1, "mssql": 2}.get(outlet.engine_name, 0)]


def _quoted(outlet: Outlet, name: str) -> str:
    return f"[{name}]" if outlet.engine_name == "mssql" else f"`{name}`"


def _schema(outlet: Outlet) -> str:
    declared = [f"{_quoted(outlet, name)} {_declared(outlet, name)}" for name in COLUMNS]
    if outlet.engine_name == "mssql":
        declared.append("CHECK (ISJSON([document]) = 1)")
    return f"CREATE TABLE wide_row (id INT NOT NULL PRIMARY KEY, {', '.join(declared)})"


def _bound(outlet: Outlet, name: str, value: Any) -> Any:
    """As the application of that engine writes it; SQL Server's as text, of which its driver loses nothing."""
    if outlet.engine_name in ("mariadb", "mysql"):
        if name == "stamped" and value is not None:
            return value + ZONE
        return value
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, timedelta):
        amount = abs(value)
        minutes, seconds = divmod(amount.seconds, 60)
        hours = amount.days * 24 + minutes // 60
        sign = "-" if value < timedelta() else ""
        return f"{sign}{hours:02}:{minutes % 60:02}:{seconds:02}.{amount.microseconds:06}"
    return value


def _insert(outlet: Outlet, number: int, row: Mapping[str, Any]) -> None:
    names = ", ".join(_quoted(outlet, name) for name in row)
    typed = outlet.engine_name == "mssql"
    marks = ", ".join(f"CAST(:{name} AS {_declared(outlet, name)})" if typed else f":{name}" for name in row)
    values = {name: _bound(outlet, name, value) for name, value in row.items()}
    with outlet.application.begin() as connection:
        if outlet.engine_name in ("mariadb", "mysql"):
            connection.exec_driver_sql("SET SESSION time_zone = '+08:00'")
        connection.execute(text(f"INSERT INTO wide_row (id, {names}) VALUES (:id, {marks})"), {"id": number, **values})


def _check(network: Network, expected: Mapping[int, Mapping[str, Any]], when: str) -> None:
    network.settle()
    for outlet in network.outlets.values():
        assert outlet.count("SELECT COUNT(*) FROM subak_quarantine") == 0, when
    found = audit(network.urls)
    assert found.identical, f"{when}: {found}"
    for name, outlet in network.outlets.items():
        with outlet.reader.begin() as connection:
            rows = {row["id"]: row for row in connection.exec_driver_sql("SELECT * FROM wide_row").mappings()}
        assert set(rows) == set(expected), f"{when}, at {name}"
        for number, row in expected.items():
            for column, value in row.items():
                kind = COLUMNS[column][3]
                there = rows[number][column]
                assert same(kind, there) == same(kind, value), (
                    f"{when}, at {name}: row {number}, {column}: {str(there)[:200]!r} is not {str(value)[:200]!r}"
                )
                assert (there is None) == (value is None)


MIXES = {
    "sqlite-mariadb": {"ubud": "sqlite", "kuta": "mariadb"},
    "all": {"ubud": "sqlite", "kuta": "mariadb", "lovina": "mysql"},
    "mysql-mysql": {"ubud": "mysql", "kuta": "mysql"},
    "with SQL Server": {"ubud": "sqlite", "kuta": "mssql", "lovina": "mysql"},
    "mssql-mssql": {"ubud": "mssql", "kuta": "mssql"},
}


@pytest.mark.parametrize("mix", MIXES)
def test_every_type_survives_every_pair_of_engines_there_and_back(make_network: MakeNetwork, mix: str) -> None:
    network = make_network(MIXES[mix], "", start=False)
    for outlet in network.outlets.values():
        outlet.execute(_schema(outlet))
    network.start()
    expected: dict[int, Mapping[str, Any]] = {}
    for base, outlet in enumerate(network.outlets.values(), start=1):
        for number, row in enumerate(_rows(MIXES[mix].values()), start=base * 100):
            _insert(outlet, number, row)
            expected[number] = row
    _check(network, expected, "inserted at each")

    # Back: each outlet in turn sends all rows, as it holds them, to all others.
    for name, outlet in network.outlets.items():
        outlet.execute("UPDATE wide_row SET touched = touched + 1")
        _check(network, expected, f"sent back by {name}")

    copied = dict(expected)
    for base, (name, outlet) in enumerate(network.outlets.items(), start=1):
        for number, written in expected.items():
            copied[base * 10_000 + number] = written
        columns = ", ".join(_quoted(outlet, column) for column in COLUMNS)
        outlet.execute(
            f"INSERT INTO wide_row (id, {columns}) SELECT id + {base * 10_000}, {columns} FROM wide_row WHERE id < 10000"
        )
        _check(network, copied, f"copied at {name}")
    for outlet in network.outlets.values():
        outlet.execute("DELETE FROM wide_row WHERE id < 10000")
        network.settle()
    _check(network, {number: row for number, row in copied.items() if number >= 10000}, "deleted")
