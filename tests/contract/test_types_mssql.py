"""SQL Server's own types: to the other engines and back, what is rounded and how, what is refused, what is a key.

Names of types in brackets are not put into other words by tests/stack/words.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import DBAPIError

from services.kernel import dialects
from services.kernel.catalogue import Kind
from services.kernel.dialects.mssql.catalogue import KINDS as KNOWN
from services.kernel.dialects.mssql.catalogue import VERSION_TYPES
from services.kernel.errors import PermanentError
from services.kernel.values import Image, Value, row_key
from tests.conftest import FreshDatabase
from tests.contract.captured import Captured
from tests.contract.test_types import in_order, json_roundtrip, written

COLUMNS = {
    # name: SQL Server, MySQL and MariaDB, SQLite
    "zoned": ("DATETIMEOFFSET(7)", "VARCHAR(40)", "VARCHAR(40)"),
    "fine": ("DATETIME2(7)", "DATETIME(6)", "DATETIME"),
    "ticks": ("[DATETIME]", "DATETIME(6)", "DATETIME"),
    "minute": ("SMALLDATETIME", "DATETIME(6)", "DATETIME"),
    "clock": ("TIME(7)", "TIME(6)", "TIME"),
    "coin": ("MONEY", "DECIMAL(19,4)", "DECIMAL_TEXT(19,4)"),
    "cent": ("SMALLMONEY", "DECIMAL(10,4)", "DECIMAL(10,4)"),
    "guid": ("UNIQUEIDENTIFIER", "CHAR(36)", "UUID"),
    "page": ("XML", "LONGTEXT", "TEXT"),
    "yes": ("BIT", "BOOLEAN", "BOOLEAN"),
    "octet": ("TINYINT", "TINYINT UNSIGNED", "TINYINT"),
    "words": ("NVARCHAR(MAX)", "LONGTEXT", "TEXT"),
    "latin": ("[VARCHAR](20) COLLATE Latin1_General_CI_AS", "VARCHAR(20)", "VARCHAR(20)"),
    "fixed": ("[CHAR](5) COLLATE Latin1_General_CI_AS", "CHAR(5)", "CHAR(5)"),
    "bytes": ("VARBINARY(MAX)", "LONGBLOB", "BLOB"),
}

ROWS: list[dict[str, tuple[str, Value]]] = [
    # column: as the application of SQL Server writes it, the canonical value
    {name: ("NULL", None) for name in COLUMNS},
    {
        "zoned": ("'2024-01-31 23:59:59.1234567 +08:00'", "2024-01-31 23:59:59.123457 +08:00"),
        "fine": ("'2024-12-31 23:59:59.9999996'", "2025-01-01 00:00:00"),
        "ticks": ("'2024-02-29 12:00:00.005'", "2024-02-29 12:00:00.007000"),
        "minute": ("'2024-02-29 12:00:30'", "2024-02-29 12:01:00"),
        "clock": ("'10:00:00.1234567'", "10:00:00.123457"),
        "coin": ("922337203685477.5807", "922337203685477.5807"),
        "cent": ("214748.3647", "214748.3647"),
        "guid": ("'6BA7B810-9DAD-11D1-80B4-00C04FD430C8'", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
        "page": ("CONVERT(XML, '<a>  <b>ü &amp; 🌾</b> </a>', 1)", "<a>  <b>ü &amp; 🌾</b> </a>"),
        "yes": ("1", True),
        "octet": ("255", 255),
        "words": ("'🌾 漢字 \"\\\\/'", '🌾 漢字 "\\\\/'),
        "latin": ("'é ß €'", "é ß €"),
        "fixed": ("'é b '", "é b"),
        "bytes": ("0x00FF10", b"\x00\xff\x10"),
    },
    {
        "zoned": ("'9999-12-31 23:59:59.9999999 +00:00'", "9999-12-31 23:59:59.999999 +00:00"),
        "fine": ("'9999-12-31 23:59:59.9999999'", "9999-12-31 23:59:59.999999"),
        "ticks": ("'9999-12-31 23:59:59.997'", "9999-12-31 23:59:59.997000"),
        "minute": ("'2079-06-06 23:59:00'", "2079-06-06 23:59:00"),
        "clock": ("'23:59:59.999999'", "23:59:59.999999"),
        "coin": ("-922337203685477.5808", "-922337203685477.5808"),
        "cent": ("-214748.3648", "-214748.3648"),
        "guid": ("'00000000-0000-0000-0000-000000000000'", "00000000-0000-0000-0000-000000000000"),
        "page": ("''", ""),
        "yes": ("0", False),
        "octet": ("0", 0),
        "words": ("''", ""),
        "latin": ("''", ""),
        "fixed": ("''", ""),
        "bytes": ("0x", b""),
    },
    {
        "zoned": ("'1900-01-01 00:00:00 -14:00'", "1900-01-01 00:00:00 -14:00"),
        "fine": ("'1001-01-01 00:00:00.0000010'", "1001-01-01 00:00:00.000001"),
        "ticks": ("'1753-01-01 00:00:00.003'", "1753-01-01 00:00:00.003000"),
        "minute": ("'1900-01-01 00:00:29'", "1900-01-01 00:00:00"),
        "clock": ("'00:00:00'", "00:00:00"),
        "coin": ("0.0001", "0.0001"),
        "cent": ("1000", "1000"),
        "guid": ("'ffffffff-ffff-ffff-ffff-ffffffffffff'", "ffffffff-ffff-ffff-ffff-ffffffffffff"),
        "page": ("'<a/>'", "<a/>"),
        "yes": ("1", True),
        "octet": ("1", 1),
        "words": ("'trailing  '", "trailing  "),
        "latin": ("' '", " "),
        "fixed": ("' ß€x'", " ß€x"),
        "bytes": ("0x20", b" "),
    },
]


def _create(engine: str) -> str:
    spelled = {"mssql": 0, "sqlite": 2}.get(engine, 1)
    columns = [f"{name} {types[spelled]}" for name, types in COLUMNS.items()]
    if engine == "mssql":
        columns += ["moved ROWVERSION", "twice AS (octet * 2)"]
    return f"CREATE TABLE thing (id INT NOT NULL PRIMARY KEY, {', '.join(columns)})"


@pytest.fixture(params=["sqlite", "mariadb", "mysql", "mssql"])
def two(request: pytest.FixtureRequest, fresh_database: FreshDatabase) -> Iterator[tuple[Captured, Captured]]:
    made = [Captured(fresh_database(engine), _create(engine)) for engine in ("mssql", request.param)]
    yield made[0], made[1]
    for outlet in made:
        outlet.close()


def test_its_own_types_there_and_back(two: tuple[Captured, Captured]) -> None:
    one, other = two
    assert [column.name for column in one.table("thing").columns] == ["id", *COLUMNS]
    for number, row in enumerate(ROWS):
        values = ", ".join(_typed(name, literal) for name, (literal, _) in row.items())
        one.run(f"INSERT INTO thing (id, {', '.join(row)}) VALUES ({number}, {values})")
    expected: list[Image] = [
        {"id": number, **{name: value for name, (_, value) in row.items()}} for number, row in enumerate(ROWS)
    ]
    images = [change.after or {} for change in one.seen()]
    assert images == expected
    _apply(other, [json_roundtrip(one, other, image) for image in images])
    assert in_order(other) == expected
    other.run("DELETE FROM thing")
    back = [json_roundtrip(other, one, change.before or {}) for change in other.seen()]
    one.run("DELETE FROM thing")
    _apply(one, back)
    assert in_order(one) == expected


def _typed(name: str, literal: str) -> str:
    return (
        f"CAST({literal} AS {COLUMNS[name][0]})" if name in ("zoned", "fine", "ticks", "minute", "clock") else literal
    )


def _apply(outlet: Captured, rows: list[Image]) -> None:
    insert, bound = written(outlet, "thing", rows)
    with outlet.applier() as connection:
        connection.execute(insert, bound)


@pytest.fixture
def column_of(fresh_database: FreshDatabase) -> Iterator[Any]:
    """A SQL Server outlet with one column of that type."""
    made = []

    def make(declared: str) -> Captured:
        sql = f"CREATE TABLE thing (id INT NOT NULL PRIMARY KEY, v {declared})"
        made.append(Captured(fresh_database("mssql"), sql))
        return made[-1]

    yield make
    for outlet in made:
        outlet.close()


@pytest.mark.parametrize(
    ("declared", "values"),
    [
        ("DATETIME2(3)", {"1969-12-31 23:59:59.999500": "1970-01-01 00:00:00", "2024-01-01 00:00:00.000499": None}),
        ("TIME(0)", {"10:00:00.500000": "10:00:01", "10:00:00.499999": "10:00:00"}),
        (
            "[DATETIME]",
            {
                "2024-01-01 00:00:00.001666": None,
                "2024-01-01 00:00:00.001667": "2024-01-01 00:00:00.003000",
                "2024-01-01 00:00:00.005000": "2024-01-01 00:00:00.007000",
                "2024-01-01 00:00:00.998333": "2024-01-01 00:00:00.997000",
                "2023-12-31 23:59:59.998334": "2024-01-01 00:00:00",
                "9999-12-31 23:59:59.999999": "9999-12-31 23:59:59.997000",
            },
        ),
        ("SMALLDATETIME", {"2024-02-29 23:59:30": "2024-03-01 00:00:00", "2024-01-01 00:00:29.999999": None}),
        (
            "DATETIMEOFFSET(0)",
            {
                "1969-12-31 23:59:59.5 -08:00": "1970-01-01 00:00:00 -08:00",
                "2024-01-01T00:00:00Z": "2024-01-01 00:00:00 +00:00",
            },
        ),
    ],
)
def test_what_is_rounded_on_arrival(column_of: Any, declared: str, values: dict[str, str | None]) -> None:
    outlet = column_of(declared)
    _apply(outlet, [{"id": number, "v": value} for number, value in enumerate(values)])
    assert [row["v"] for row in in_order(outlet)] == [kept or "2024-01-01 00:00:00" for kept in values.values()]


@pytest.mark.parametrize(
    ("declared", "values", "code"),
    [
        ("[DATETIME]", ["1752-12-31 00:00:00", "0000-00-00 00:00:00"], "value"),
        ("SMALLDATETIME", ["1899-12-31 00:00:00", "2079-06-07 00:00:00", "9999-12-31 23:59:59"], "value"),
        ("DATE", ["0000-00-00"], "value"),
        ("DATETIMEOFFSET(7)", ["2024-01-01 00:00:00", "2024-01-01", "yesterday"], "value"),
        ("MONEY", ["922337203685477.5808", "0.00001"], "value"),
        ("SMALLMONEY", ["214748.3648", "0.00001"], "value"),
        ("DECIMAL(5,2)", ["1000", "0.001"], "value"),
        ("[CHAR](3) COLLATE Latin1_General_CI_AS", ["four", "🌾"], "value"),
        ("[VARCHAR](MAX) COLLATE Latin1_General_CI_AS", ["🌾"], "value"),
        ("VARBINARY(2)", [b"abc"], "value"),
        ("NVARCHAR(MAX) CHECK (ISJSON(v) = 1)", ["0", "null", '"text"'], "check"),
    ],
)
def test_what_is_refused_on_arrival(column_of: Any, declared: str, values: list[Value], code: str) -> None:
    outlet = column_of(declared)
    for value in values:
        with pytest.raises((PermanentError, DBAPIError)) as caught:
            _apply(outlet, [{"id": 1, "v": value}])
        assert outlet.dialect.classify(caught.value).code == code, value
    assert in_order(outlet) == []


def test_a_text_with_the_check_that_it_is_json(fresh_database: FreshDatabase) -> None:
    outlet = Captured(
        fresh_database("mssql"),
        "CREATE TABLE thing (id INT NOT NULL PRIMARY KEY, one NVARCHAR(MAX) CHECK (ISJSON(one) = 1),"
        " [an other] NVARCHAR(400) NULL, neither NVARCHAR(400) CHECK (ISJSON(neither) = 1 OR neither = ''),"
        " CONSTRAINT other_is CHECK (ISJSON([an other]) > 0))",
    )
    kinds = [column.kind for column in outlet.table("thing").columns]
    assert kinds == [Kind.INTEGER, Kind.JSON, Kind.JSON, Kind.TEXT]
    outlet.close()


KEYS: dict[str, tuple[str, list[Value]]] = {
    "a": ("TINYINT", [0, 255, 7]),
    "b": ("MONEY", ["0", "-922337203685477.58", "10.5"]),
    "c": ("SMALLMONEY", ["100", "0.0001", "-0.1"]),
    "d": ("[DATETIME]", ["2024-01-01 00:00:00", "2024-01-01 00:00:00.003000", "1753-01-01 10:20:30.007000"]),
    "e": ("SMALLDATETIME", ["2024-01-01 00:00:00", "1900-01-01 00:01:00", "2079-06-06 23:59:00"]),
    "f": ("[VARCHAR](20) COLLATE Latin1_General_CI_AS", ["a|b\\c", "", "é |s|b\\|s"]),
    "g": ("NVARCHAR(20)", ["\uff5c\uff3c wide", "a\\\\b||", "|s"]),
    "h": ("BINARY(4)", [b"\x00\x01\xab\xff", b"    ", b"\x00" * 4]),
    "i": ("NUMERIC(38,10)", ["0", "9999999999999999999999999999.9999999999", "-0.0000000001"]),
    "j": ("DATETIME2(0)", ["2024-01-01 00:00:00", "1000-01-01 00:00:01", "9999-12-31 23:59:59"]),
}


def test_keys_of_its_own_types(fresh_database: FreshDatabase) -> None:
    columns = ", ".join(f"{name} {declared} NOT NULL" for name, (declared, _) in KEYS.items())
    outlet = Captured(
        fresh_database("mssql"), f"CREATE TABLE thing ({columns}, id INT, PRIMARY KEY ({', '.join(KEYS)}))"
    )
    rows: list[Image] = [
        {"id": number, **{name: values[number] for name, (_, values) in KEYS.items()}} for number in range(3)
    ]
    insert, bound = written(outlet, "thing", rows)
    with outlet.subak.begin() as connection:
        for row in bound:
            connection.execute(insert, row)
    assert [(change.key, change.after) for change in outlet.seen()] == [
        (row_key(outlet.table("thing"), row), row) for row in rows
    ]
    outlet.close()


@pytest.mark.parametrize(
    ("declared", "code"),
    [
        ("id INT NOT NULL PRIMARY KEY, v SQL_VARIANT", "type"),
        ("id INT NOT NULL PRIMARY KEY, v [TEXT]", "type"),
        ("id INT NOT NULL PRIMARY KEY, v NTEXT", "type"),
        ("id INT NOT NULL PRIMARY KEY, v [IMAGE]", "type"),
        ("v FLOAT NOT NULL PRIMARY KEY", "key_type"),
        ("v REAL NOT NULL PRIMARY KEY", "key_type"),
        ("v TIME(3) NOT NULL PRIMARY KEY", "key_type"),
        ("v DATETIMEOFFSET(3) NOT NULL PRIMARY KEY", "key_type"),
        ("v DATETIME2(7) NOT NULL PRIMARY KEY", "key_type"),
    ],
)
def test_a_table_is_refused(fresh_database: FreshDatabase, declared: str, code: str) -> None:
    outlet = Captured(fresh_database("mssql"), f"CREATE TABLE thing ({declared})")
    if (table := outlet.catalogue.table("thing")) and table.column("v").declared == "datetime2(6)":
        outlet.close()
        pytest.skip("this server makes six digits of seven")
    assert [(refusal.column, refusal.code) for refusal in outlet.catalogue.refusals] == [("v", code)]
    outlet.close()


@pytest.mark.parametrize(
    ("table", "declared", "code"),
    [
        ("thing", "v NVARCHAR(450) NOT NULL PRIMARY KEY", None),
        ("thing", "v [VARCHAR](700) NOT NULL PRIMARY KEY NONCLUSTERED", "key_size"),
        ("thing", "a NVARCHAR(350) NOT NULL, b NVARCHAR(350) NOT NULL, PRIMARY KEY NONCLUSTERED (a, b)", "key_size"),
        ("thing", "v VARBINARY(350) NOT NULL PRIMARY KEY", "key_size"),
        ("thing", "v VARBINARY(300) NOT NULL PRIMARY KEY", None),
        (f"[{'n' * 60}].[{'t' * 60}]", "v INT NOT NULL PRIMARY KEY", None),
    ],
)
def test_keys_that_the_version_table_cannot_hold(
    fresh_database: FreshDatabase, table: str, declared: str, code: str | None
) -> None:
    """The trigger would fail the application's write."""
    schema, dot, _ = table.partition(".")
    before = [f"CREATE SCHEMA {schema}"] if dot else []
    outlet = Captured(fresh_database("mssql"), *before, f"CREATE TABLE {table} ({declared})")
    found = outlet.catalogue
    outlet.close()
    assert [refusal.code for refusal in found.refusals] == ([code] if code else [])


def test_the_page_names_every_type() -> None:
    page = (Path(dialects.__file__).parent / "TYPES.md").read_text(encoding="utf-8")
    table = "".join(line.partition("|")[2].partition("|")[0] for line in page.splitlines() if line.startswith("|"))
    named = {re.match(r"\w+", name)[0] for name in re.findall(r"`(\w[^`]*)`", table)}  # type: ignore[index]
    assert set(KNOWN) | VERSION_TYPES <= named
