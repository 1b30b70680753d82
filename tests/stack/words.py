"""The tests' SQL, which is written in words that SQLite and MySQL share, in the words of SQL Server."""

from __future__ import annotations

import re

_PARTS = re.compile(r"(N?'(?:[^']|'')*'|\[(?:[^\]]|\]\])*\]|\"[^\"]*\")")
"""Literals and quoted names."""

_WORDS: tuple[tuple[str, str], ...] = (
    (r"INTEGER PRIMARY KEY AUTOINCREMENT", "INT NOT NULL IDENTITY(1, 1) PRIMARY KEY"),
    (r"\bINT (NOT NULL )?AUTO_INCREMENT", "INT NOT NULL IDENTITY(1, 1)"),
    (r"\bVARCHAR\b", "NVARCHAR"),
    (r"\bCHAR\b(?=\s*\()", "NCHAR"),
    (r"(?<=\w )(?:LONG|MEDIUM)?TEXT\b", "NVARCHAR(MAX)"),
    (r"(?<=ADD) COLUMN\b", ""),
    (r"\bDOUBLE\b(?: PRECISION)?", "FLOAT"),
    (r"\b(?:LONG|MEDIUM)?BLOB\b", "VARBINARY(MAX)"),
    (r"\bVARBINARY\((?=\d{5})\d+\)", "VARBINARY(MAX)"),
    (r"\bDATETIME\b", "DATETIME2"),
    (r"\bBOOLEAN\b", "BIT"),
    (r"(?<![.\w\[@])(CloudQuery|subak_[a-z]+(?:_[a-z]+)?)\b(?!_)", r"subak.\1"),
    (r"(?<=[ .])Rule\b", "[Rule]"),
    (r"\bSTART TRANSACTION\b", "BEGIN TRANSACTION"),
    (r"\bLENGTH\(", "LEN("),
    (r"\bCHAR_LENGTH\(", "LEN("),
)


def in_tsql(sql: str) -> str:
    parts = _PARTS.split(sql)
    return _with_its_keys("".join(_literal(part) if number % 2 else _words(part) for number, part in enumerate(parts)))


def _with_its_keys(sql: str) -> str:
    """An INSERT that gives the values of an IDENTITY column, if the table has one."""
    found = re.match(r"INSERT INTO (\w+) \(id,", sql, re.IGNORECASE)
    if not found:
        return sql
    has = f"IF EXISTS (SELECT 1 FROM sys.identity_columns WHERE object_id = OBJECT_ID('{found[1]}'))"
    return f"{has} SET IDENTITY_INSERT {found[1]} ON; {sql}; {has} SET IDENTITY_INSERT {found[1]} OFF"


def _literal(text: str) -> str:
    return f"N{text}" if text.startswith("'") else text


def _words(text: str) -> str:
    for pattern, word in _WORDS:
        text = re.sub(pattern, word, text, flags=re.IGNORECASE)
    return text
