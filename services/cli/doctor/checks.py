"""What is looked at on every engine: the catalogue's refusals, foreign keys, keys that the engine makes, the clock."""

from __future__ import annotations

import time
from collections.abc import Iterator

from sqlalchemy import Connection, inspect

from services.applier import rules
from services.cli.doctor.finding import Finding, check, must
from services.kernel.catalogue import Catalogue
from services.kernel.dialects import dialect_for
from services.kernel.policy import misfits
from services.kernel.schema import POLICY

CLOCK_SECONDS = 5.0
"""A clock that is off by more decides conflicts in favour of one outlet more often than chance."""


def refused(catalogue: Catalogue) -> Iterator[Finding]:
    for refusal in catalogue.refusals:
        subject = refusal.table if refusal.column is None else f"{refusal.table}.{refusal.column}"
        yield must(refusal.code, subject, refusal.what, refusal.todo)
    if not catalogue.tables:
        yield must(
            "no_tables",
            "SUBAK_TABLES",
            "There is no table to synchronise.",
            "Set SUBAK_TABLES to globs that match your tables, or leave it unset for all; correct the URL otherwise.",
        )


def strangers(catalogue: Catalogue) -> Iterator[Finding]:
    """Foreign keys that refer to a table which is not synchronised."""
    for table in catalogue.tables:
        for foreign_key in table.foreign_keys:
            if catalogue.table(foreign_key.parent) is None:
                yield must(
                    "parent_not_synchronised",
                    table.name,
                    f"Its foreign key ({', '.join(foreign_key.columns)}) refers to {foreign_key.parent}, "
                    "which is not synchronised: a row whose parent another outlet lacks is quarantined there.",
                    f"Synchronise {foreign_key.parent} too, or leave out both.",
                )


def policy(connection: Connection, catalogue: Catalogue) -> Iterator[Finding]:
    """Tables that the conflict rules do not fit, as far as this outlet has been given any."""
    if not inspect(connection).has_table(POLICY.name, schema=dialect_for(connection.engine.url).schema):
        return
    for name, why in misfits(rules.read(connection).rules, catalogue).items():
        table = catalogue.table(name)
        yield must(
            "policy",
            table.name if table else name,
            f"{why} What others change in this table is held here.",
            "Correct the table, or the policy file at the hub.",
        )


def clock(database_seconds: float) -> Iterator[Finding]:
    """Compares the database's clock with this machine's."""
    apart = database_seconds - time.time()
    if abs(apart) > CLOCK_SECONDS:
        yield check(
            "clock",
            "clock",
            f"The database's clock is {apart:+.0f} s off this machine's.",
            "Let NTP set both. A wrong clock loses nothing, but it decides which of two conflicting changes wins.",
        )
