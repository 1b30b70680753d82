"""Which ODBC driver is used, and where it is: Microsoft's when there is one, else FreeTDS."""

from __future__ import annotations

import sysconfig
from functools import cache
from pathlib import Path

import pyodbc
from sqlalchemy.engine import URL

MICROSOFTS = "ODBC Driver {} for SQL Server"
VERSIONS = (18, 17)
FREETDS = "FreeTDS"

_WHEEL = "mssql_python_odbc/libs/linux/*/*/lib/libmsodbcsql-18*.so*"
"""Where the package mssql-python-odbc keeps Microsoft's driver, below site-packages."""


@cache
def installed() -> str:
    """The name or the path of a driver on this machine; Microsoft's newest by name when there is none at all."""
    known = set(pyodbc.drivers())
    for version in VERSIONS:
        if MICROSOFTS.format(version) in known:
            return MICROSOFTS.format(version)
    return _in_the_wheel() or (FREETDS if FREETDS in known else MICROSOFTS.format(VERSIONS[0]))


def _in_the_wheel() -> str | None:
    machine = sysconfig.get_platform().rpartition("-")[2].replace("aarch64", "arm64")
    site = Path(sysconfig.get_path("purelib"))
    found = [path for path in sorted(site.glob(_WHEEL)) if path.parent.parent.name == machine]
    return str(found[0]) if found else None


def with_driver(url: URL) -> URL:
    """The URL with a driver, if it names none; for FreeTDS in the form that it wants."""
    query = dict(url.query)
    driver = str(query.setdefault("driver", installed()))
    url = url.set(drivername="mssql+pyodbc", query=query)
    return _for_freetds(url) if driver.casefold() == FREETDS.casefold() else url


def _for_freetds(url: URL) -> URL:
    """The port by itself, a protocol that knows the newer types, and Unicode."""
    query = {"TDS_Version": "7.4", "ClientCharset": "UTF-8", **url.query}
    if url.port:
        query["PORT"] = str(url.port)
    return url.set(query=query)._replace(port=None)
