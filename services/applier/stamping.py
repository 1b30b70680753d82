"""When each column of a row was written last. Pure.

Only where a conflict rule decides column by column does anybody need to know. The triggers know nothing of it: they give the row a new
version, and leave what the applier wrote about its columns. So what stands there may be older than the row; what the application did to the
row since then is in `CloudQuery`, chained by the bases, and is told off here (`current`). A row of which nothing is written has all its columns
from the version that stands at the end of that chain.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from services.applier.deciding import Version
from services.kernel.catalogue import Table, folded
from services.kernel.change import NEVER, Generation, Op, Stamp
from services.kernel.policy import Merge, Rule
from services.kernel.values import Image


@dataclass(frozen=True)
class ColumnStamps:
    """`of`: by folded column name; `rest`: of all others."""

    rest: Stamp
    of: Mapping[str, Stamp] = field(default_factory=dict)

    def at(self, column: str) -> Stamp:
        return self.of.get(column, self.rest)

    def written(self, columns: Iterable[str], stamp: Stamp) -> ColumnStamps:
        """As these, where the columns were written at `stamp`, unless they were later."""
        return ColumnStamps(self.rest, {**self.of, **{name: max(self.at(name), stamp) for name in columns}})


@dataclass(frozen=True)
class Made:
    """A change of a row that was made here, as `CloudQuery` keeps it."""

    op: Op
    before: Image | None
    after: Image | None
    stamp: Stamp
    base: Stamp
    generation: Generation


def claimed(op: Op, before: Image | None, after: Image | None, rule: Rule, table: Table) -> list[str]:
    """The columns that a change writes, by its rule: all of them, or those that it changed. Delta columns are nobody's, and a key
    never changes."""
    key = {folded(name) for name in table.key}
    image = (after if after is not None else before) or {}
    if rule.merge is Merge.COLUMN and op is Op.DELETE:
        return []
    same = before if before is not None and rule.merge is Merge.COLUMN and op is Op.UPDATE else {}
    return [
        name
        for name, value in image.items()
        if name not in key and name not in rule.delta and (name not in same or same[name] != value)
    ]


def described(version: Version) -> tuple[Stamp, ColumnStamps] | None:
    """What the applier wrote about the columns, and the version it was then; None when it wrote nothing."""
    if version.columns is None:
        return None
    found = json.loads(version.columns)
    of = {name: Stamp(*stamp) for name, stamp in found["of"].items()}
    return Stamp(*found["at"]), ColumnStamps(Stamp(*found["rest"]), of)


def description(stamps: ColumnStamps, version: Stamp) -> str | None:
    """The text for `subak_version.ColumnStamps`; None when every column is from `version` itself."""
    of = {name: stamp for name, stamp in sorted(stamps.of.items()) if stamp != stamps.rest}
    if not of and stamps.rest == version:
        return None
    return json.dumps({"at": version, "rest": stamps.rest, "of": of}, separators=(",", ":"))


def current(
    version: Version | None, made: Sequence[Made], table: Table, rule_of: Callable[[Generation], Rule]
) -> ColumnStamps:
    """`made`: the changes made here that led to `version`, newest first, as far back as they follow one another."""
    if version is None:
        return ColumnStamps(NEVER)
    end = made[-1].base if made else version.stamp
    known = described(version)
    stamps = known[1] if known and known[0] == end else ColumnStamps(end)
    for one in reversed(made):
        rule = rule_of(one.generation)
        stamps = stamps.written(claimed(one.op, one.before, one.after, rule, table), one.stamp)
    return stamps
