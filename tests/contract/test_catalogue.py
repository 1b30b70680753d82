"""A schema in words: what every engine's catalogue must find, and what it must refuse, by name, with what to do."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Connection
from sqlalchemy.engine import URL

from services.kernel.catalogue import Catalogue, Kind, Table, folded
from services.kernel.change import MAX_NAME
from services.kernel.dialects import Dialect, Purpose, dialect_for
from services.kernel.schema import Side, prepare
from tests.stack.application import translate


class Schema:
    def __init__(self, url: URL) -> None:
        self.dialect: Dialect = dialect_for(url)
        self._engine = self.dialect.engine(url, Purpose.WRITE)
        translate(self._engine)
        self.connection: Connection = self._engine.connect()

    def run(self, *statements: str) -> None:
        for statement in statements:
            self.connection.exec_driver_sql(statement)
        self.connection.commit()

    def read(self, *patterns: str) -> Catalogue:
        found = self.dialect.catalogue(self.connection, patterns or ("*",))
        self.connection.rollback()
        return found

    def table(self, name: str) -> Table:
        found = self.read()
        table = found.table(name)
        assert table is not None, found.refusals
        return table

    def refused(self, table: str) -> list[tuple[str, str | None]]:
        found = self.read(table)
        assert found.table(table) is None
        assert all(refusal.what and refusal.todo and refusal.table == table for refusal in found.refusals)
        return [(refusal.code, refusal.column) for refusal in found.refusals]

    def close(self) -> None:
        self.connection.close()
        self._engine.dispose()


@pytest.fixture
def schema(database_url: URL) -> Iterator[Schema]:
    made = Schema(database_url)
    yield made
    made.close()


def test_tables_columns_and_keys(schema: Schema) -> None:
    schema.run(
        "CREATE TABLE Price (Zone INTEGER NOT NULL, article VARCHAR(10) NOT NULL, amount DECIMAL(8,2) NOT NULL, note CHAR(3),"
        " PRIMARY KEY (Zone, article), UNIQUE (note, amount))"
    )
    price = schema.table("PRICE")
    assert folded(price.name) == "price"
    assert tuple(map(folded, price.key)) == ("article", "zone"), (
        "by folded name, so that every outlet builds the same row key"
    )
    assert [(folded(column.name), column.kind, column.nullable) for column in price.columns] == [
        ("zone", Kind.INTEGER, False),
        ("article", Kind.TEXT, False),
        ("amount", Kind.DECIMAL, False),
        ("note", Kind.CHAR, True),
    ]
    assert (price.column("AMOUNT").precision, price.column("amount").scale) == (8, 2)
    assert price.uniques == (("note", "amount"),)
    assert not price.generated_key


def test_patterns_choose_tables_and_subaks_own_are_never_among_them(schema: Schema) -> None:
    for name in ("sale", "sale_line", "Customer", "log"):
        schema.run(f"CREATE TABLE {name} (id INTEGER NOT NULL PRIMARY KEY)")
    schema.run("CREATE VIEW sales AS SELECT id FROM sale")
    prepare(schema.connection, schema.dialect, Side.OUTLET)
    assert {folded(table.name) for table in schema.read().tables} == {"sale", "sale_line", "customer", "log"}
    assert {folded(table.name) for table in schema.read("SALE*", "c?stomer").tables} == {
        "sale",
        "sale_line",
        "customer",
    }
    assert schema.read("nothing").tables == schema.read("nothing").refusals == ()


def test_foreign_keys_also_to_itself_and_in_the_parents_order(schema: Schema) -> None:
    schema.run(
        "CREATE TABLE place (country INTEGER NOT NULL, town INTEGER NOT NULL, PRIMARY KEY (country, town))",
        "CREATE TABLE person (id INTEGER NOT NULL PRIMARY KEY, boss INTEGER, town INTEGER, country INTEGER,"
        " FOREIGN KEY (boss) REFERENCES person (id), FOREIGN KEY (country, town) REFERENCES place (country, town))",
    )
    found = {(key.columns, key.parent, key.parent_columns, key.cascades) for key in schema.table("person").foreign_keys}
    assert found == {
        (("boss",), "person", ("id",), False),
        (("country", "town"), "place", ("country", "town"), False),
    }
    assert [table.name for table, _ in schema.read().children(schema.table("place"))] == ["person"]


def test_computed_columns_are_left_out(schema: Schema) -> None:
    total, twice = (
        ("AS (amount * price) PERSISTED", "AS (amount * 2)")
        if schema.dialect.name == "mssql"
        else ("INTEGER GENERATED ALWAYS AS (amount * price) STORED", "INTEGER GENERATED ALWAYS AS (amount * 2) VIRTUAL")
    )
    schema.run(
        "CREATE TABLE line (id INTEGER NOT NULL PRIMARY KEY, amount INTEGER, price INTEGER,"
        f" total {total}, twice {twice})"
    )
    assert [column.name for column in schema.table("line").columns] == ["id", "amount", "price"]


def test_a_generated_key(schema: Schema) -> None:
    increment = {"sqlite": "", "mysql": " AUTO_INCREMENT", "mssql": " IDENTITY(1, 1)"}[schema.dialect.name]
    schema.run(
        f"CREATE TABLE made (id INTEGER NOT NULL PRIMARY KEY{increment})",
        "CREATE TABLE given (id VARCHAR(9) NOT NULL PRIMARY KEY)",
    )
    assert schema.table("made").generated_key
    assert not schema.table("given").generated_key


def test_refused_no_primary_key(schema: Schema) -> None:
    schema.run("CREATE TABLE heap (a INTEGER NOT NULL UNIQUE)")
    assert schema.refused("heap") == [("no_primary_key", None)]


@pytest.mark.parametrize("engine_name", ["sqlite", "mssql"])
def test_refused_long_name(schema: Schema) -> None:
    """No outlet could read a batch with a change of it, whatever else is in that batch."""
    name = "n" * (MAX_NAME + 1)
    schema.run(f"CREATE TABLE {name} (a INTEGER NOT NULL PRIMARY KEY)")
    assert schema.refused(name) == [("name", None)]


@pytest.mark.parametrize("declared", ["DOUBLE", "TIME"])
def test_refused_keys(schema: Schema, declared: str) -> None:
    schema.run(f"CREATE TABLE odd (a {declared} NOT NULL PRIMARY KEY)")
    assert schema.refused("odd") == [("key_type", "a")]


def test_a_refused_table_does_not_keep_others_out(schema: Schema) -> None:
    schema.run("CREATE TABLE heap (a INTEGER)", "CREATE TABLE good (a INTEGER NOT NULL PRIMARY KEY)")
    found = schema.read()
    assert [table.name for table in found.tables] == ["good"]
    assert [refusal.table for refusal in found.refusals] == ["heap"]


class TestSqlite:
    @pytest.fixture
    def engine_name(self) -> str:
        return "sqlite"

    @pytest.mark.parametrize(
        ("declared", "kind"),
        [
            ("INT", Kind.INTEGER),
            ("unsigned big int", Kind.INTEGER),
            ("bool", Kind.BOOLEAN),
            ("numeric(10, 2)", Kind.DECIMAL),
            ("DECIMAL_TEXT(38,10)", Kind.DECIMAL),
            ("double precision", Kind.FLOAT),
            ("NVARCHAR(160)", Kind.TEXT),
            ("native character(70)", Kind.CHAR),
            ("clob", Kind.TEXT),
            ("LONGBLOB", Kind.BINARY),
            ("timestamp", Kind.DATETIME),
            ("JSON_TEXT", Kind.JSON),
            ("uniqueidentifier", Kind.UUID),
        ],
    )
    def test_kinds(self, schema: Schema, declared: str, kind: Kind) -> None:
        schema.run(f"CREATE TABLE thing (id INTEGER PRIMARY KEY, c {declared})")
        column = schema.table("thing").column("c")
        assert column.kind is kind
        assert column.loose

    @pytest.mark.parametrize("declared", ["", "GEOMETRY", "STRING"])
    def test_refused_types(self, schema: Schema, declared: str) -> None:
        schema.run(f"CREATE TABLE thing (id INTEGER PRIMARY KEY, c {declared})")
        assert schema.refused("thing") == [("type", "c")]

    def test_refused_decimals_that_a_double_does_not_hold(self, schema: Schema) -> None:
        schema.run("CREATE TABLE thing (id INTEGER PRIMARY KEY, c DECIMAL(16,2))")
        assert schema.refused("thing") == [("decimal_digits", "c")]

    def test_refused_virtual_tables_and_unique_expressions(self, schema: Schema) -> None:
        schema.run(
            "CREATE VIRTUAL TABLE search USING fts5(body)",
            "CREATE TABLE word (id INTEGER PRIMARY KEY, w TEXT)",
            "CREATE UNIQUE INDEX low ON word (lower(w))",
        )
        assert schema.refused("search") == [("virtual", None)]
        assert schema.refused("word") == [("expression_index", None)]

    def test_a_strict_table_is_not_loose(self, schema: Schema) -> None:
        schema.run("CREATE TABLE thing (id INTEGER PRIMARY KEY, c INTEGER) STRICT")
        assert not schema.table("thing").column("c").loose

    def test_null_in_a_key_is_refused_when_it_occurs(self, schema: Schema) -> None:
        schema.run("CREATE TABLE word (w TEXT PRIMARY KEY)")
        assert schema.table("word").column("w").nullable
        schema.run("INSERT INTO word VALUES (NULL)")
        assert schema.refused("word") == [("null_key", "w")]

    def test_which_integer_key_is_the_rowid(self, schema: Schema) -> None:
        schema.run(
            "CREATE TABLE yes (id INTEGER PRIMARY KEY)",
            "CREATE TABLE int (id INT PRIMARY KEY)",
            "CREATE TABLE desc_ (id INTEGER PRIMARY KEY DESC)",
            "CREATE TABLE without_ (id INTEGER PRIMARY KEY) WITHOUT ROWID",
        )
        made = {table.name: table.generated_key for table in schema.read().tables}
        assert made == {"yes": True, "int": False, "desc_": False, "without_": False}

    def test_a_foreign_key_that_names_no_columns_and_cascades(self, schema: Schema) -> None:
        schema.run(
            "CREATE TABLE parent (id INTEGER PRIMARY KEY)",
            "CREATE TABLE child (id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parent ON DELETE CASCADE)",
        )
        (key,) = schema.table("child").foreign_keys
        assert (key.parent_columns, key.on_delete, key.cascades) == (("id",), "CASCADE", True)


class TestMysql:
    @pytest.fixture(params=["mariadb", "mysql"])
    def engine_name(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.mark.parametrize(
        ("declared", "kind"),
        [
            ("TINYINT(1)", Kind.INTEGER),
            ("BIGINT UNSIGNED", Kind.INTEGER),
            ("BIT(3)", Kind.INTEGER),
            ("DECIMAL(65,30)", Kind.DECIMAL),
            ("FLOAT", Kind.FLOAT),
            ("CHAR(3)", Kind.CHAR),
            ("ENUM('a')", Kind.TEXT),
            ("MEDIUMTEXT", Kind.TEXT),
            ("BINARY(16)", Kind.BINARY),
            ("TINYBLOB", Kind.BINARY),
            ("TIMESTAMP NULL", Kind.DATETIME),
            ("JSON", Kind.JSON),
            ("YEAR", Kind.INTEGER),
        ],
    )
    def test_kinds(self, schema: Schema, declared: str, kind: Kind) -> None:
        schema.run(f"CREATE TABLE thing (id INT NOT NULL PRIMARY KEY, c {declared})")
        column = schema.table("thing").column("c")
        assert column.kind is kind
        assert not column.loose

    def test_refused_types(self, schema: Schema) -> None:
        schema.run("CREATE TABLE thing (id INT NOT NULL PRIMARY KEY, c POINT)")
        assert schema.refused("thing") == [("type", "c")]

    def test_refused_engines(self, schema: Schema) -> None:
        schema.run("CREATE TABLE thing (id INT NOT NULL PRIMARY KEY) ENGINE = MyISAM")
        assert schema.refused("thing") == [("engine", None)]

    @pytest.mark.parametrize("action", ["ON DELETE CASCADE", "ON DELETE SET NULL", "ON UPDATE CASCADE"])
    def test_cascades_are_followed(self, schema: Schema, action: str) -> None:
        schema.run(
            "CREATE TABLE parent (id INT NOT NULL PRIMARY KEY)",
            "CREATE TABLE child (id INT NOT NULL PRIMARY KEY, parent INT,"
            f" CONSTRAINT link FOREIGN KEY (parent) REFERENCES parent (id) {action})",
        )
        (link,) = schema.table("child").foreign_keys
        assert (link.name, link.cascades) == ("link", True)

    def test_refused_cascades_that_cannot_be_followed_and_the_way_out(self, schema: Schema) -> None:
        schema.run(
            "CREATE TABLE part (id INT NOT NULL PRIMARY KEY, whole INT,"
            " CONSTRAINT link FOREIGN KEY (whole) REFERENCES part (id) ON DELETE CASCADE)",
        )
        assert schema.refused("part") == [("cascade", None)]
        (refusal,) = schema.read().refusals
        assert "link" in refusal.what and "itself" in refusal.what
        for statement in refusal.todo.partition("; and")[0].split(";"):
            schema.run(statement)
        (link,) = schema.table("part").foreign_keys
        assert (link.name, link.cascades) == ("link", False)
