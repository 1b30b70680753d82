"""The test servers themselves: each engine gives a fresh, empty, writable database to an ordinary user."""

from __future__ import annotations

from sqlalchemy import inspect, text
from sqlalchemy.engine import URL

from tests.stack.application import application_engine


def test_fresh_database_is_empty_and_writable(database_url: URL) -> None:
    engine = application_engine(database_url)
    with engine.begin() as connection:
        assert inspect(connection).get_table_names() == []
        connection.execute(text("CREATE TABLE word (id INTEGER PRIMARY KEY, said VARCHAR(20))"))
        connection.execute(text("INSERT INTO word VALUES (1, :said)"), {"said": "sawah 🌾"})
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT said FROM word")) == "sawah 🌾"
    engine.dispose()
