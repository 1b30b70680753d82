"""Conflict rules per table: the policy file that the hub keeps and hands to all outlets (design §6). Pure.

[tables.stock]
rule = "column"                # "row" (the default): the later change has the whole row; "column": the later one, column by column
delta = ["on_hand"]            # the value is the sum of what every change contributed
minimum = { on_hand = 0 }      # a sum below is not written: the change waits in quarantine; left out: as the database allows
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

from services.kernel.catalogue import Catalogue, Kind, Table, folded
from services.kernel.change import Generation
from services.kernel.errors import PermanentError


class Merge(StrEnum):
    ROW = "row"
    """The greater (stamp, origin) wins the whole row."""
    COLUMN = "column"
    """The greater (stamp, origin) wins each column that it wrote."""


@dataclass(frozen=True)
class Rule:
    """Of one table. `delta` and `minimum` are by folded column name."""

    merge: Merge = Merge.ROW
    delta: frozenset[str] = frozenset()
    minimum: Mapping[str, Decimal] = field(default_factory=dict)

    @property
    def plain(self) -> bool:
        """Whether the later change simply has the whole row."""
        return self.merge is Merge.ROW and not self.delta


ROW = Rule()


@dataclass(frozen=True)
class Rules:
    """Of all tables, by folded name; a table that is not named has the rule `row`."""

    tables: Mapping[str, Rule] = field(default_factory=dict)

    def of(self, table: str) -> Rule:
        return self.tables.get(folded(table), ROW)


@dataclass(frozen=True)
class Given:
    """The rules of one generation, as one outlet took them up: its changes with an Id greater than `boundary` are made under them."""

    generation: Generation
    rules: Rules
    boundary: int


class Policies:
    """All generations that an outlet knows."""

    def __init__(self, given: Sequence[Given] = ()) -> None:
        self._given = sorted(given, key=lambda one: one.generation)
        self._not_plain = {name for one in given for name, rule in one.rules.tables.items() if not rule.plain}
        self._by_column = {
            name for one in given for name, rule in one.rules.tables.items() if rule.merge is Merge.COLUMN
        }

    def rule(self, generation: Generation, table: str) -> Rule:
        """Under which a change of that generation is decided. One that was never heard of here was given out by a hub that has since been put
        back to a backup and gave out the same file again: it is taken for the next one after it, or else the last."""
        if not generation or not self._given:
            return ROW
        later = [one for one in self._given if one.generation >= generation]
        return (later[0] if later else self._given[-1]).rules.of(table)

    @property
    def rules(self) -> Rules:
        """The newest."""
        return self._given[-1].rules if self._given else Rules()

    def generation_of(self, change_id: int) -> Generation:
        """Of a change of this outlet's own, by its Id in CloudQuery."""
        return max((one.generation for one in self._given if one.boundary < change_id), default=0)

    def plain(self, table: str) -> bool:
        """Whether the table has been under the rule `row` alone, and without delta columns, ever since."""
        return folded(table) not in self._not_plain

    def by_column(self, table: str) -> bool:
        """Whether the table is, or has been, under the rule `column`."""
        return folded(table) in self._by_column


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    rule: Merge = Merge.ROW
    delta: list[Annotated[str, StringConstraints(min_length=1)]] = []
    minimum: dict[str, Decimal] = {}


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    tables: dict[str, _Table] = {}


def parse(text: str) -> Rules:
    """The rules in a policy file. Raises PermanentError `policy` with every fault there is."""
    try:
        file = _File.model_validate(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise _wrong([f"It is not TOML: {error}."]) from error
    except ValidationError as error:
        faults = [f"{'.'.join(str(part) for part in one['loc'])}: {one['msg']}." for one in error.errors()]
        raise _wrong(faults) from error
    faults = [
        f"tables.{name}.minimum: {column} is not among the delta columns."
        for name, table in file.tables.items()
        for column in table.minimum
        if folded(column) not in {folded(one) for one in table.delta}
    ]
    faults += [
        f"tables.{name}.minimum: a column is named twice; case does not count."
        for name, table in file.tables.items()
        if len({folded(column) for column in table.minimum}) < len(table.minimum)
    ]
    by_name: dict[str, str] = {}
    for name in file.tables:
        if other := by_name.get(folded(name)):
            faults.append(f"tables.{name}: {other} is the same table; case does not count.")
        by_name[folded(name)] = name
    if faults:
        raise _wrong(faults)
    return Rules({folded(name): _rule(table) for name, table in file.tables.items()})


def _rule(table: _Table) -> Rule:
    minimum = {folded(column): least for column, least in table.minimum.items()}
    return Rule(table.rule, frozenset(folded(name) for name in table.delta), minimum)


def _wrong(faults: Sequence[str]) -> PermanentError:
    return PermanentError(
        "policy",
        "The policy file is wrong: " + " ".join(faults),
        'Write [tables.NAME] with rule = "row" or "column", delta = ["COLUMN", ...], minimum = { COLUMN = 0 }.',
    )


def misfits(rules: Rules, catalogue: Catalogue) -> dict[str, str]:
    """Folded name of each table that the rules do not fit, and why. Its changes are held until table or rules are corrected.

    A table that is not here is no misfit: what comes for it is held anyway.
    """
    found: dict[str, str] = {}
    for table in catalogue.tables:
        rule = rules.of(table.name)
        reasons = [reason for name in sorted(rule.delta) if (reason := _misfit(table, name))]
        if reasons:
            found[folded(table.name)] = " ".join(reasons)
    return found


def _misfit(table: Table, name: str) -> str | None:
    if not table.has(name):
        return f"{table.name} has no column {name}, which the policy file calls a delta column."
    column = table.column(name)
    if column.kind not in (Kind.INTEGER, Kind.DECIMAL):
        return f"{table.name}.{column.name} is {column.declared or column.kind.value}: a delta column is an integer or a decimal."
    if column.nullable:
        return f"{table.name}.{column.name} may be NULL: a delta column must be NOT NULL."
    bound = {folded(one) for key in (table.key, *table.uniques) for one in key}
    bound |= {folded(one) for foreign_key in table.foreign_keys for one in foreign_key.columns}
    if name in bound:
        return f"{table.name}.{column.name} belongs to a key: a sum cannot be one."
    return None
