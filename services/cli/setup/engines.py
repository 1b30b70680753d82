"""The engines that an outlet of the compose network, or a remote one, may have; and the accounts that are made on them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from sqlalchemy.engine import URL

HERE = Path(__file__).parent
DATABASE = "shop"
"""The application's database in the compose network, and its application's user."""

SUBAK = "subak"

_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")


class Product(StrEnum):
    MYSQL = "mysql"
    MARIADB = "mariadb"
    MSSQL = "mssql"


@dataclass(frozen=True)
class Facts:
    name: str
    driver: str
    port: int
    administrator: str
    sample: str
    """The file that makes the sample shop's database."""
    query: Mapping[str, str]


FACTS = {
    Product.MYSQL: Facts("MySQL", "mysql+pymysql", 3306, "root", "sample_mysql", {}),
    Product.MARIADB: Facts("MariaDB", "mariadb+pymysql", 3306, "root", "sample_mysql", {}),
    Product.MSSQL: Facts("SQL Server", "mssql+pyodbc", 1433, "sa", "sample_mssql", {"TrustServerCertificate": "yes"}),
}


def address(engine: Product, user: str, password: str, host: str, database: str | None) -> URL:
    facts = FACTS[engine]
    return URL.create(facts.driver, user, password, host, facts.port, database, facts.query)


def grants(engine: Product, database: str, password: str) -> str:
    """The statements that make Subak's user, with comments, for an administrator to read."""
    return _rendered(engine.value, database, password)


def sample(engine: Product, password: str) -> str:
    return _rendered(FACTS[engine].sample, DATABASE, password)


def statements(script: str) -> list[str]:
    """One by one, without the comments."""
    lines = [line for line in script.splitlines() if not line.startswith("--")]
    return [part.strip().rstrip(";") for part in "\n".join([*lines, ""]).split(";\n") if part.strip()]


def _rendered(file: str, database: str, password: str) -> str:
    values = {"database": database, "password": password}
    return _PLACEHOLDER.sub(lambda found: values[found[1]], (HERE / f"{file}.sql").read_text("utf-8"))
