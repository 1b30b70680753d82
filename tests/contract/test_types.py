"""The type matrix: every kind of column, from every engine to every other and back, through the triggers, equal to the last bit."""

from __future__ import annotations

import itertools
import json
import math
import struct
from collections.abc import Iterator
from datetime import date, datetime, time
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from services.kernel.errors import PermanentError
from services.kernel.values import Image, row_key
from tests.conftest import FreshDatabase
from tests.contract.captured import Captured

COLUMNS = {
    # name: SQLite, MySQL and MariaDB, SQL Server
    "id": ("INTEGER NOT NULL PRIMARY KEY", "INT NOT NULL PRIMARY KEY", "INT NOT NULL PRIMARY KEY"),
    "tiny": ("TINYINT", "TINYINT", "SMALLINT"),
    "big": ("BIGINT", "BIGINT", "BIGINT"),
    "positive": ("INTEGER", "BIGINT UNSIGNED", "BIGINT"),
    "padded": ("INTEGER", "INT(8) ZEROFILL", "BIGINT"),
    "flag": ("BOOLEAN", "BOOLEAN", "BIT"),
    "exact": ("DECIMAL_TEXT(38,10)", "DECIMAL(38,10)", "DECIMAL(38,10)"),
    "money": ("DECIMAL(12,2)", "DECIMAL(12,2)", "DECIMAL(12,2)"),
    "wide": ("DOUBLE", "DOUBLE", "FLOAT"),
    "narrow": ("FLOAT", "FLOAT", "REAL"),
    "word": ("VARCHAR(200)", "VARCHAR(200)", "NVARCHAR(400)"),
    "code": ("CHAR(10)", "CHAR(10)", "NCHAR(20)"),
    "body": ("TEXT", "LONGTEXT", "NVARCHAR(MAX)"),
    # SQL Server's, in brackets, is not put into other words by tests/stack/words.py.
    "latin": ("VARCHAR(20)", "VARCHAR(20) CHARACTER SET latin1", "[VARCHAR](20) COLLATE Latin1_General_CI_AS"),
    "picture": ("BLOB", "LONGBLOB", "VARBINARY(MAX)"),
    "digest": ("BINARY(4)", "BINARY(4)", "BINARY(4)"),
    "day": ("DATE", "DATE", "DATE"),
    "clock": ("TIME", "TIME(6)", "TIME(6)"),
    "moment": ("DATETIME", "DATETIME(6)", "DATETIME2(6)"),
    "instant": ("TIMESTAMP", "TIMESTAMP(6) NULL", "DATETIME2(6)"),
    "tree": ("JSON", "JSON", "NVARCHAR(MAX) CHECK (ISJSON(tree) = 1)"),
    "bits": ("INTEGER", "BIT(64)", "BIGINT"),
    "half": ("INTEGER", "BIT(5)", "TINYINT"),
    "year": ("YEAR", "YEAR", "SMALLINT"),
    "choice": ("VARCHAR(10)", "ENUM('small', 'größe', '')", "NVARCHAR(10)"),
    "several": ("VARCHAR(20)", "SET('a', 'b', 'c')", "NVARCHAR(20)"),
    "uuid": ("UUID", "CHAR(36)", "UNIQUEIDENTIFIER"),
}

AWKWARD = [
    "",
    " ",
    "trailing  ",
    "'quoted' \"twice\" `thrice`",
    "back\\slash\\",
    "percent % :colon ? {{now}}",
    "line\nline\r\n\ttab",
    "nul\0inside",
    "emoji 🌾👩‍🌾",
    "漢字かな한글",
    "\ufeffé\u0301",
    '{"hex":"AB"}',
    "NULL",
]

EXTREMES: dict[str, list[Any]] = {
    "tiny": [-128, 127, 0],
    "big": [-(2**63), 2**63 - 1],
    "positive": [0, 2**63 - 1],
    "padded": [0, 5, 4294967295],
    "flag": [True, False],
    "exact": ["9" * 28 + "." + "9" * 10, "-" + "9" * 28 + ".0000000001", "0", "-0.5"],
    "money": ["9999999999.99", "-9999999999.99", "0.01", "100"],
    "wide": [
        0.1,
        1 / 3,
        5e-324,
        1.7976931348623157e308,
        -2.2250738585072014e-308,
        123456789.123456789,
        1e22,
        2.0**53 + 2,
    ],
    "narrow": [struct.unpack("f", struct.pack("f", x))[0] for x in (0.1, 3.4e38, 1.2e-38, 16777217.0, -1 / 3)],
    "word": AWKWARD,
    "code": ["", "a", " a", "ab cd", "漢字"],
    "body": [*AWKWARD, "x" * 70_000, "🌾" * 20_000],
    "latin": ["", "é ü ß", "plain"],
    "picture": [b"", b"\0", b"\xff\xfe", bytes(range(256)), bytes(range(256)) * 4096],
    "digest": [b"\0\0\0\0", b"abcd", b"\xff\0\xff\0"],
    "day": ["1000-01-01", "9999-12-31", "2024-02-29"],
    "clock": ["00:00:00", "23:59:59.999999", "-12:00:00.000001", "837:59:59"],
    "moment": ["1000-01-01 00:00:00", "9999-12-31 23:59:59.999999", "2024-02-29 12:00:00.000001"],
    "instant": [
        "1970-01-01 00:00:01",
        "2038-01-19 03:14:07.999999",
        "2024-10-27 00:30:00",
        "2024-10-27 01:30:00.500000",
    ],
    "tree": [
        "{}",
        "[]",
        '"text"',
        "null",
        "0",
        '{"a":{"b":[1,2.5,"é🌾\\"\\\\",null,true]},"z":""}',
        "[1.0,1e+20,-0.25]",
    ],
    "bits": [0, 1, 2**63 - 1],
    "half": [0, 31],
    "year": [1901, 2155, 0],
    "choice": ["small", "größe", ""],
    "several": ["", "a", "a,c"],
    "uuid": ["6ba7b810-9dad-11d1-80b4-00c04fd430c8"],
}

ENGINES = ("sqlite", "mariadb", "mysql", "mssql")
PAIRS = [*itertools.combinations(ENGINES, 2), ("sqlite", "sqlite"), ("mariadb", "mariadb"), ("mssql", "mssql")]


def _on(engine: str) -> int:
    """Which of the spellings is that engine's."""
    return {"sqlite": 0, "mssql": 2}.get(engine, 1)


def _sql_server_holds(name: str, value: Any) -> Any:
    """The other engines have more: times beyond a day, denormal numbers, JSON that is neither an object nor an array."""
    match name:
        case "clock":
            return "00" <= value[:2] < "24" and value[2] == ":"
        case "wide":
            return value == 0 or abs(value) >= 2.0**-1022
        case "narrow":
            return value == 0 or abs(value) >= 2.0**-126
        case "tree":
            return value.startswith(("{", "["))
    return True


def rows_of_extremes() -> Iterator[Image]:
    """NULL everywhere; then every extreme value of each column, side by side."""
    yield {"id": 1, **dict.fromkeys(EXTREMES)}
    for i in range(max(len(values) for values in EXTREMES.values())):
        yield {"id": i + 2, **{name: values[i % len(values)] for name, values in EXTREMES.items()}}


class Two:
    """Two outlets of the pair, both with the table `thing`."""

    def __init__(self, fresh_database: FreshDatabase, pair: tuple[str, str]) -> None:
        self.outlets = [Captured(fresh_database(engine), _create(engine)) for engine in pair]
        self._on_sql_server = "mssql" in pair
        self._with_nul = all(keeps_nul(outlet) for outlet in self.outlets)

    def close(self) -> None:
        for outlet in self.outlets:
            outlet.close()

    def there_and_back(self, rows: list[Image]) -> None:
        """The application writes at the first outlet; what its triggers show is applied at the second; from there, back to the first."""
        one, other = self.outlets
        rows = [{name: value if self._holds(name, value) else None for name, value in row.items()} for row in rows]
        for outlet in self.outlets:
            outlet.run("DELETE FROM thing")
            outlet.seen()
        self._write(one, rows, captured=True)
        images = [change.after or {} for change in one.seen()]
        assert images == rows
        self._write(other, [json_roundtrip(one, other, image) for image in images], captured=False)
        assert in_order(other) == rows
        other.run("DELETE FROM thing")
        back = [json_roundtrip(other, one, change.before or {}) for change in other.seen()]
        one.run("DELETE FROM thing")
        self._write(one, back, captured=False)
        assert in_order(one) == rows

    def _holds(self, name: str, value: Any) -> Any:
        if isinstance(value, str) and not self._with_nul and ("\0" in value or (name == "tree" and "\\u0000" in value)):
            return False
        return value is None or not self._on_sql_server or _sql_server_holds(name, value)

    def _write(self, outlet: Captured, rows: list[Image], *, captured: bool) -> None:
        insert, bound = written(outlet, "thing", rows)
        if captured:
            with outlet.subak.begin() as connection:  # a session in UTC, not marked
                for row in bound:
                    connection.execute(insert, row)
        else:
            with outlet.applier() as connection:
                connection.execute(insert, bound)


def written(outlet: Captured, name: str, rows: list[Image]) -> tuple[sa.Insert, list[dict[str, Any]]]:
    """An INSERT, and its parameters for each row, as the applier makes them."""
    table, dialect = outlet.table(name), outlet.dialect
    target = sa.table(table.bare_name, *[sa.column(column.name) for column in table.columns], schema=table.schema)
    values = {column.name: dialect.written(column, sa.bindparam(f"v_{column.name}")) for column in table.columns}
    bound = [{f"v_{column.name}": dialect.bind(column, row[column.name]) for column in table.columns} for row in rows]
    return sa.insert(target).values(values), bound


def in_order(outlet: Captured) -> list[Image]:
    return sorted(outlet.rows("thing").values(), key=lambda row: int(str(row["id"])))


def keeps_nul(outlet: Captured) -> bool:
    """Whether this server has texts with a NUL in them: all engines do, but what only speaks T-SQL may not."""
    length = "LEN(:nul)" if outlet.dialect.name == "mssql" else "LENGTH(:nul)"
    with outlet.application.connect() as connection:
        try:
            return bool(connection.execute(sa.text(f"SELECT {length}"), {"nul": "a\0b"}).scalar() == len("a\0b"))
        except sa.exc.DBAPIError:
            return False


def json_roundtrip(origin: Captured, target: Captured, image: Image) -> Image:
    """As the image travels: rendered by nobody on its way but here, to be read by the target's own catalogue."""
    from services.kernel.values import parse_image, render_image

    return parse_image(target.table("thing"), render_image(origin.table("thing"), image))


def _create(engine: str) -> str:
    columns = [f"{name} {types[_on(engine)]}" for name, types in COLUMNS.items()]
    return f"CREATE TABLE thing ({', '.join(columns)})".replace(" year ", " year " if engine == "mssql" else " `year` ")


@pytest.fixture(params=PAIRS, ids="-".join)
def two(request: pytest.FixtureRequest, fresh_database: FreshDatabase) -> Iterator[Two]:
    made = Two(fresh_database, request.param)
    yield made
    made.close()


def test_extremes(two: Two) -> None:
    two.there_and_back(list(rows_of_extremes()))


def _texts(longest: int) -> some.SearchStrategy[str]:
    return some.text(some.characters(exclude_categories=["Cs"]), max_size=longest)


def _decimal(digits: int, places: int) -> some.SearchStrategy[str]:
    def canonical(number: int) -> str:
        figures = f"{abs(number):0{places + 1}}"
        text = f"{figures[:-places]}.{figures[-places:]}".rstrip("0").rstrip(".")
        return f"-{text}" if number < 0 else text

    return some.integers(-(10**digits) + 1, 10**digits - 1).map(canonical)


def _moment(first: datetime, last: datetime) -> some.SearchStrategy[str]:
    return some.datetimes(first, last).map(lambda moment: moment.isoformat(sep=" "))


_JSON = some.recursive(
    some.none() | some.booleans() | some.integers(-(2**63), 2**63 - 1) | some.floats(-1e15, 1e15) | _texts(20),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(_texts(5), inner, max_size=3),
    max_leaves=6,
)


def _canonical_json(tree: Any) -> str:
    return json.dumps(tree, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


ANY: dict[str, some.SearchStrategy[Any]] = {
    "tiny": some.integers(-128, 127),
    "big": some.integers(-(2**63), 2**63 - 1),
    "positive": some.integers(0, 2**63 - 1),
    "padded": some.integers(0, 2**32 - 1),
    "flag": some.booleans(),
    "exact": _decimal(38, 10),
    "money": _decimal(12, 2),
    "wide": some.floats(allow_nan=False, allow_infinity=False).map(lambda value: value + 0.0),
    "narrow": some.floats(width=32, allow_nan=False, allow_infinity=False).map(lambda value: value + 0.0),
    "word": _texts(200),
    "code": _texts(10).map(lambda value: value.rstrip(" ")),
    "body": _texts(300),
    "latin": some.text(
        some.characters(codec="latin-1", exclude_characters="".join(map(chr, range(128, 160)))), max_size=20
    ),
    "picture": some.binary(max_size=300),
    "digest": some.binary(min_size=4, max_size=4),
    "day": some.dates(date(1000, 1, 1)).map(str),
    "clock": some.times().map(time.isoformat),
    "moment": _moment(datetime(1000, 1, 1), datetime(9999, 12, 31)),
    "instant": _moment(datetime(1970, 1, 2), datetime(2038, 1, 18)),
    "tree": _JSON.filter(lambda tree: not isinstance(tree, float)).map(_canonical_json),
    "bits": some.integers(0, 2**63 - 1),
    "half": some.integers(0, 31),
    "year": some.integers(1901, 2155),
    "choice": some.sampled_from(["small", "größe", ""]),
    "several": some.sampled_from(["", "a", "b", "a,b", "a,b,c"]),
    "uuid": some.uuids().map(str),
}


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    some.lists(
        some.fixed_dictionaries({name: some.none() | values for name, values in ANY.items()}), min_size=1, max_size=30
    )
)
def test_any_values(two: Two, rows: list[dict[str, Any]]) -> None:
    two.there_and_back([{"id": i, **row} for i, row in enumerate(rows)])


KEYS = {
    "a": ("INTEGER NOT NULL", "BIGINT NOT NULL", "BIGINT NOT NULL"),
    "b": (
        "VARCHAR(20) NOT NULL",
        "VARCHAR(20) NOT NULL COLLATE utf8mb4_bin",
        "NVARCHAR(40) COLLATE Latin1_General_BIN2 NOT NULL",
    ),
    "c": ("DECIMAL(12,3) NOT NULL", "DECIMAL(12,3) NOT NULL", "DECIMAL(12,3) NOT NULL"),
    "d": ("BLOB NOT NULL", "VARBINARY(20) NOT NULL", "VARBINARY(20) NOT NULL"),
    "e": ("DATETIME NOT NULL", "DATETIME(6) NOT NULL", "DATETIME2(6) NOT NULL"),
    "f": ("DATE NOT NULL", "DATE NOT NULL", "DATE NOT NULL"),
    "g": ("CHAR(5) NOT NULL", "CHAR(5) NOT NULL COLLATE utf8mb4_bin", "NCHAR(5) COLLATE Latin1_General_BIN2 NOT NULL"),
    "h": ("BOOLEAN NOT NULL", "BIT(1) NOT NULL", "BIT NOT NULL"),
    "i": ("UUID NOT NULL", "CHAR(36) NOT NULL", "UNIQUEIDENTIFIER NOT NULL"),
    "j": ("TIMESTAMP NOT NULL", "TIMESTAMP(3) NOT NULL", "DATETIME2(3) NOT NULL"),
}

KEY_ROW = some.fixed_dictionaries(
    {
        "a": some.integers(-(2**63), 2**63 - 1),
        "b": some.text(some.sampled_from("a|\\ é🌾'"), max_size=20),
        "c": _decimal(12, 3),
        "d": some.binary(max_size=20),
        "e": _moment(datetime(1000, 1, 1), datetime(9999, 12, 31)),
        "f": some.dates(date(1000, 1, 1)).map(str),
        "g": some.text(some.sampled_from("a|\\é"), max_size=5),
        "h": some.booleans(),
        "i": some.uuids().map(str),
        "j": some.datetimes(datetime(1970, 1, 2), datetime(2038, 1, 1)).map(
            lambda moment: moment.replace(microsecond=moment.microsecond // 1000 * 1000).isoformat(sep=" ")
        ),
    }
)


@pytest.fixture
def keyed(fresh_database: FreshDatabase, engine_name: str) -> Iterator[Captured]:
    types = [f"{name} {spelled[_on(engine_name)]}" for name, spelled in KEYS.items()]
    made = Captured(
        fresh_database(engine_name), f"CREATE TABLE keyed ({', '.join(types)}, PRIMARY KEY ({', '.join(KEYS)}))"
    )
    yield made
    made.close()


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(some.lists(KEY_ROW, min_size=1, max_size=20, unique_by=lambda row: row["a"]))
def test_the_triggers_spell_a_key_as_the_kernel_does(keyed: Captured, rows: list[Image]) -> None:
    table = keyed.table("keyed")
    keyed.run("DELETE FROM keyed")
    keyed.seen()
    insert, bound = written(keyed, "keyed", rows)
    with keyed.subak.begin() as connection:
        for row in bound:
            connection.execute(insert, row)
    for change in keyed.seen():
        assert change.after is not None
        assert change.key == row_key(table, change.after)
    assert set(keyed.rows("keyed")) == {row_key(table, row) for row in rows}


@pytest.mark.parametrize(
    ("engine_name", "column", "value"),
    [
        ("sqlite", "big", 2**63),
        ("sqlite", "money", "1234567890123.456"),
        ("sqlite", "tree", "1.0"),
        ("mariadb", "exact", "0.00000000001"),
        ("mariadb", "narrow", 0.1),
        ("mariadb", "wide", math.inf),
        ("mariadb", "digest", b"abc"),
        ("mariadb", "word", "x" * 200 + " "),
        ("mysql", "money", "0.001"),
        ("mysql", "narrow", 1e300),
        ("mysql", "digest", b"abc"),
        ("mssql", "half", -1),
        ("mssql", "half", 256),
        ("mssql", "big", 2**63),
        ("mssql", "exact", "0.00000000001"),
        ("mssql", "money", "0.001"),
        ("mssql", "wide", math.inf),
        ("mssql", "wide", 5e-324),
        ("mssql", "narrow", 0.1),
        ("mssql", "narrow", 1e300),
        ("mssql", "narrow", -1e-40),
        ("mssql", "word", "🌾" * 201),
        ("mssql", "code", "x" * 21),
        ("mssql", "latin", "🌾"),
        ("mssql", "latin", "漢字"),
        ("mssql", "latin", "x" * 21),
        ("mssql", "digest", b"abc"),
        ("mssql", "digest", b"abcde"),
        ("mssql", "clock", "24:00:00"),
        ("mssql", "clock", "-00:00:01"),
        ("mssql", "clock", "100:00:00"),
        ("mssql", "clock", "23:59:59.9999996"),
        ("mssql", "uuid", "6ba7b810-9dad-11d1-80b4-00c04fd430c8 and more"),
    ],
)
def test_what_the_engine_would_change_silently_is_refused(
    fresh_database: FreshDatabase, engine_name: str, column: str, value: Any
) -> None:
    outlet = Captured(fresh_database(engine_name), _create(engine_name))
    with pytest.raises(PermanentError) as caught:
        outlet.dialect.bind(outlet.table("thing").column(column), value)
    outlet.close()
    assert caught.value.code == "value"
    assert column in caught.value.what


@pytest.mark.parametrize("engine_name", ["mariadb", "mysql", "mssql"])
@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ("2024-12-31 23:59:59.500000", "2025-01-01 00:00:00"),
        ("2024-12-31 23:59:59.499999", "2024-12-31 23:59:59"),
        ("2024-12-31 23:59:59", "2024-12-31 23:59:59"),
        ("9999-12-31 23:59:59.999999", "9999-12-31 23:59:59"),
    ],
)
def test_a_fraction_is_rounded_by_one_rule(
    fresh_database: FreshDatabase, engine_name: str, value: str, kept: str
) -> None:
    whole = "DATETIME2(0)" if engine_name == "mssql" else "DATETIME"
    outlet = Captured(fresh_database(engine_name), f"CREATE TABLE log (id INT NOT NULL PRIMARY KEY, at {whole})")
    bound = outlet.dialect.bind(outlet.table("log").column("at"), value)
    outlet.execute("INSERT INTO log VALUES (1, :at)", at=bound)
    assert outlet.rows("log")["1"]["at"] == kept
    outlet.close()
