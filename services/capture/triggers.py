"""Subak's triggers: installed where missing, rebuilt where the table changed, removed where not wanted any more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from services.capture import state
from services.kernel import schema
from services.kernel.catalogue import Refusal
from services.kernel.dialects import Dialect, Trigger
from services.kernel.errors import PermanentError

DENIED = "denied"


@dataclass(frozen=True)
class Report:
    """What `install` did, by trigger name; or, from `check`, what it would do. `refusals`: tables that are left out."""

    installed: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    rebuilt: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    refusals: tuple[Refusal, ...] = ()

    @property
    def changed(self) -> bool:
        return bool(self.installed or self.rebuilt or self.removed)


@dataclass
class _Plan:
    missing: list[Trigger]
    stale: list[Trigger]
    right: list[Trigger]
    needless: list[Trigger]
    refusals: list[Refusal]

    def report(self) -> Report:
        def names(triggers: Sequence[Trigger]) -> tuple[str, ...]:
            return tuple(trigger.name for trigger in triggers)

        return Report(
            names(self.missing), names(self.right), names(self.stale), names(self.needless), tuple(self.refusals)
        )


def install(engine: Engine, dialect: Dialect, patterns: Sequence[str], outlet: str) -> Report:
    """Makes Subak's tables and the triggers of every table that matches `patterns` be as they should. Safe to repeat.

    `engine` is of Purpose.WRITE. Raises PermanentError `other_outlet`, `denied`, `newer_schema`; TransientError when a
    table is in use for too long: then some triggers are there and some are not yet.
    """
    with _translated(dialect), engine.connect() as connection:
        with _advised(dialect):
            schema.prepare(connection, dialect, schema.Side.OUTLET)
        state.claim(connection, outlet)
        connection.commit()
        plan = _plan(connection, dialect, patterns, outlet)
        for trigger in plan.needless:
            dialect.drop_trigger(connection, trigger)
            connection.commit()
        plan.missing = _created(connection, dialect, plan.missing, plan.refusals)
        plan.stale = _created(connection, dialect, plan.stale, plan.refusals)
        return plan.report()


def check(engine: Engine, dialect: Dialect, patterns: Sequence[str], outlet: str) -> Report:
    """What `install` would do. Changes nothing."""
    with _translated(dialect), engine.connect() as connection:
        return _plan(connection, dialect, patterns, outlet).report()


def remove(engine: Engine, dialect: Dialect) -> Report:
    """Drops every trigger of Subak's in this database. Its tables, and what waits in them, stay."""
    with _translated(dialect), engine.connect() as connection:
        there = list(dialect.installed(connection).values())
        connection.rollback()
        for trigger in there:
            dialect.drop_trigger(connection, trigger)
            connection.commit()
        return Report(removed=tuple(trigger.name for trigger in there))


def _plan(connection: Connection, dialect: Dialect, patterns: Sequence[str], outlet: str) -> _Plan:
    catalogue = dialect.catalogue(connection, patterns)
    refusals = list(catalogue.refusals)
    wanted: dict[str, Trigger] = {}
    for table in catalogue.tables:
        try:
            wanted |= {trigger.name: trigger for trigger in dialect.triggers(connection, table, catalogue, outlet)}
        except PermanentError as error:
            refusals.append(Refusal(table.name, None, error.code, error.what, error.todo))
    there = dialect.installed(connection)
    connection.rollback()  # what was read of the catalogue holds no table from being altered
    kept = [trigger for name, trigger in wanted.items() if name in there]
    right = [trigger for trigger in kept if dialect.same(trigger, there[trigger.name])]
    return _Plan(
        missing=[trigger for name, trigger in wanted.items() if name not in there],
        stale=[trigger for trigger in kept if trigger not in right],
        right=right,
        needless=[trigger for name, trigger in there.items() if name not in wanted],
        refusals=refusals,
    )


def _created(
    connection: Connection, dialect: Dialect, triggers: Sequence[Trigger], refusals: list[Refusal]
) -> list[Trigger]:
    """Those that the server took; a table whose trigger it does not take is a refusal, and the others go on."""
    done = []
    for trigger in triggers:
        try:
            with _advised(dialect):
                dialect.create_trigger(connection, trigger)
                connection.commit()
        except PermanentError as error:
            connection.rollback()
            if error.code == DENIED:
                raise
            refusals.append(Refusal(trigger.table, None, error.code, error.what, error.todo))
        else:
            done.append(trigger)
    return done


@contextmanager
def _advised(dialect: Dialect) -> Iterator[None]:
    """A missing privilege is told with the GRANT that gives it."""
    try:
        with _translated(dialect):
            yield
    except PermanentError as error:
        if error.code == DENIED:
            raise PermanentError(DENIED, error.what, dialect.rights_todo) from error
        raise


@contextmanager
def _translated(dialect: Dialect) -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        raise dialect.classify(error) from error
