"""What a transaction's changes have to say here: who wins, under the table's rule, and what leaves a trace as a conflict.

Pure in terms of a `View`: `deciding.py` and `merging.py` are the rules, this walks a transaction through them in source order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from services.applier.deciding import MISSING_ROW, Decision, Verdict, Version, decide
from services.applier.lives import Lives
from services.applier.merging import Merged, merge
from services.applier.parsing import Parsed, Refused
from services.applier.stamping import ColumnStamps, current, description
from services.applier.view import Overlay, RowName, View
from services.kernel.catalogue import Catalogue, Table, folded
from services.kernel.change import NEVER, Change, Op, Stamp
from services.kernel.policy import ROW, Merge, Policies, Rule
from services.kernel.values import Image, parse_image, render_image


@dataclass(frozen=True)
class Situation:
    """Where and when: `outlet` is this outlet's name, `now` in microseconds since 1970 UTC."""

    catalogue: Catalogue
    outlet: str
    now: int
    policies: Policies = field(default_factory=Policies)
    misfits: Mapping[str, str] = field(default_factory=dict)
    """Folded names of the tables that the newest rules do not fit, and why."""
    lives: Lives | None = None
    """Of which outlets this database is an adopted copy; None: of none."""

    @property
    def own(self) -> Lives:
        return self.lives or Lives(self.outlet)

    @property
    def origins(self) -> frozenset[str]:
        """Under which names changes in this database's CloudQuery were made."""
        return self.own.origins


@dataclass(frozen=True)
class Conflict:
    """Neither change knew the other. `local_image` is the row as it stood here, None when it was gone."""

    change: Change
    table: str
    """As it is named here."""
    row: RowName
    rule: str
    winner: str
    local: Stamp
    local_image: str | None


@dataclass(eq=False)
class Step:
    """A change that has an effect here, not yet placed in the order."""

    change: Change
    table: Table
    row: RowName
    image: Image | None
    version: Version
    """The row's, once this is done."""
    pair: Step | None = None
    buried: bool = False
    """The row is not there and stays so: only what its tombstone holds has changed."""
    done: bool = False
    started: bool = False


class Judge:
    """Of one transaction. `again`: a retry from quarantine; what loses now has been superseded, which is no conflict."""

    def __init__(self, view: View, situation: Situation, *, again: bool) -> None:
        self._view = view
        self._situation = situation
        self._again = again
        self.conflicts: list[Conflict] = []

    def judge(self, changes: list[Parsed]) -> list[Step]:
        """The changes that have an effect, in source order. Raises Refused."""
        # On an overlay of their own: what is decided does not depend on the order of the writes.
        seen = Overlay(self._view)
        steps: list[Step] = []
        half: Step | None = None  # the deletion of a changed key, whose insertion comes next
        for parsed in changes:
            change, table, row = parsed.change, parsed.table, parsed.row
            if reason := self._situation.misfits.get(folded(table.name)):
                raise Refused("policy", reason, "Correct the table or the policy file; it is retried by itself then.")
            version = seen.version(row)
            decision = decide(change, version, seen.exists(row), seen.awaited(row), generated_key=table.generated_key)
            if decision.verdict is Verdict.REFUSED:
                reason = f"{change.table} {change.key}: {decision.reason}"
                raise Refused(decision.code, reason, _ADVICE.get(decision.code, ""))
            step = None
            if not self._situation.policies.plain(table.name):
                step = self._merged(parsed, version, decision, seen)
            else:
                self._tell(decision, change, table, row, version, seen)
                if decision.verdict is Verdict.WINS:
                    step = Step(change, table, row, parsed.after, _version(change, change.before))
            if step:
                wins = decision.verdict is Verdict.WINS
                if wins and half and half.table == table and change.op is Op.INSERT:
                    step.pair, half.pair = half, step
                steps.append(step)
                seen.write(table, row, step.image)
                seen.set_version(row, step.version)
            half = step if decision.verdict is Verdict.WINS and change.paired else None
        return steps

    def _merged(self, parsed: Parsed, version: Version | None, decision: Decision, seen: Overlay) -> Step | None:
        """A change under a rule other than `row`: it may have an effect although a later one is known, and a later one may keep its own."""
        change, table, row = parsed.change, parsed.table, parsed.row
        policies = self._situation.policies
        rule = policies.rule(change.policy, table.name)
        exists, wins = seen.exists(row), decision.verdict is Verdict.WINS
        here = seen.image(table, row) if exists else _buried(table, version)
        if here is None and rule.delta and any(one.waits for one in seen.awaited(row).values()):
            # What its image holds of the sums, the quarantined ones before it would add again.
            raise Refused(MISSING_ROW, f"{change.table} {change.key}: {_NOTHING_TO_ADD_TO}", _ADVICE[MISSING_ROW])
        stamps = ColumnStamps(version.stamp if version else NEVER)
        if version and policies.by_column(table.name):
            made = seen.made(table, row, version)
            stamps = current(version, made, table, lambda generation: policies.rule(generation, table.name))
        if version and version.stamp == change.stamp:
            return None
        merged = merge(change, parsed.before, parsed.after, table, rule, here, stamps)
        self._tell(decision, change, table, row, version, seen, rule, merged)
        stays = change.op is not Op.DELETE if wins else exists
        if stays:
            self._check_minimum(change, rule, merged)
        elif not wins and (here is None or merged.image == here):
            return None
        last = None if stays else render_image(table, merged.image)
        if wins:
            new = Version(change.stamp, change.base, not stays, last, description(merged.stamps, change.stamp))
        else:
            assert version is not None
            new = Version(version.stamp, version.base, not stays, last, description(merged.stamps, version.stamp))
            if merged.image == here and new == version:
                return None
        return Step(change, table, row, merged.image if stays else None, new, buried=not stays and not wins)

    def _check_minimum(self, change: Change, rule: Rule, merged: Merged) -> None:
        for name, least in rule.minimum.items():
            value = Decimal(str(merged.image.get(name, least)))
            if value < least and merged.added.get(name, Decimal(0)) < 0:
                raise Refused(
                    "minimum",
                    f"{change.table} {change.key}: {name} would be {value}, and the policy file says {least} at least.",
                    "It is retried whenever the row changes: correct the stock, or the minimum in the policy file.",
                )

    def _tell(
        self,
        decision: Decision,
        change: Change,
        table: Table,
        row: RowName,
        version: Version | None,
        seen: Overlay,
        rule: Rule = ROW,
        merged: Merged | None = None,
    ) -> None:
        """Leaves a trace of a conflict. On a retry, what loses has been superseded, which is none."""
        wins = decision.verdict is Verdict.WINS
        if not decision.conflict or (self._again and not wins):
            return
        name, winner = rule.merge.value, "incoming" if wins else "local"
        if merged and merged.added and not merged.won and not merged.lost:
            name, winner = "delta", "both"
        elif merged and rule.merge is Merge.COLUMN and change.op is Op.UPDATE:
            winner = "local" if not merged.won else "incoming" if merged.over and not merged.lost else "both"
        self._record(change, table, row, version, name, winner, seen)

    def _record(
        self,
        change: Change,
        table: Table,
        row: RowName,
        version: Version | None,
        rule: str,
        winner: str,
        seen: Overlay,
    ) -> None:
        local = seen.image(table, row) if seen.exists(row) else None
        self.conflicts.append(
            Conflict(
                change,
                table.name,
                row,
                rule,
                winner,
                version.stamp if version else Stamp(0, ""),
                render_image(table, local) if local is not None else None,
            )
        )


_ADVICE = {
    "generated_key": "Give each outlet its own key range; re-enter one of the rows under a new key, or discard.",
    "missing_row": "Compare the outlets (`subak compare`); retry once the row is here.",
}


_NOTHING_TO_ADD_TO = "It adds to a row that is not here, because earlier changes of it are quarantined."


def _buried(table: Table, version: Version | None) -> Image | None:
    """What a deleted row's tombstone holds."""
    if version is None or not version.deleted or version.last_image is None:
        return None
    return parse_image(table, version.last_image)


def _version(change: Change, last_image: str | None = None) -> Version:
    deleted = change.op is Op.DELETE
    return Version(change.stamp, change.base, deleted, last_image if deleted else None)
