"""The trigger templates of `sql/outlet/<engine>/`: plain SQL with `{{name}}` where something of the local catalogue goes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

SQL = Path(__file__).resolve().parents[3] / "sql" / "outlet"

PREFIX = "subak_"
"""What every trigger and, but for CloudQuery, every table of Subak's is called by first."""

MAX_NAME = 64
"""The longest identifier that MySQL takes."""

_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
_LEADING_COMMENTS = re.compile(r"\A(?:--[^\n]*\n|\s*\n)+")


@cache
def _template(engine: str, name: str) -> str:
    """The template without the header, which is for the reader of the file."""
    return _LEADING_COMMENTS.sub("", (SQL / engine / f"{name}.sql").read_text("utf-8")).strip()


def statements(engine: str, name: str) -> tuple[str, ...]:
    """The statements of a file whose placeholders are values to be bound, as `:name`."""
    text = _PLACEHOLDER.sub(r":\1", _template(engine, name))
    return tuple(part.strip().rstrip(";") for part in text.split(";\n") if part.strip().rstrip(";"))


def render(engine: str, name: str, values: Mapping[str, str]) -> str:
    """The template with its placeholders replaced, once: what a value holds is never looked at again.

    Raises KeyError for a placeholder that has no value.
    """
    return _PLACEHOLDER.sub(lambda found: values[found[1]], _template(engine, name))


def trigger_name(table: str, event: str) -> str:
    """`subak_<table>_<event>`; a long table name is cut and told apart by a hash of the whole."""
    name = f"{PREFIX}{table}_{event}"
    if len(name) <= MAX_NAME:
        return name
    mark = hashlib.sha256(table.encode()).hexdigest()[:8]
    room = MAX_NAME - len(PREFIX) - len(event) - len(mark) - 2
    return f"{PREFIX}{table[:room]}_{mark}_{event}"


def is_own_table(name: str) -> bool:
    """Whether a table is Subak's rather than the application's."""
    return name.casefold() == "cloudquery" or name.casefold().startswith(PREFIX)
