"""From one transaction to what must be written here: what was decided (judging.py), put into an order that foreign keys allow.

Pure in terms of a `View`. The order is the source's own, which is right wherever nothing was decided otherwise here; a
parent that comes later is pulled forward, a child that still has to go is taken first. Where a conflict left a child
without its parent, or would take a parent from its children, the row that others refer to wins over its deletion
(design §6): as a new change of this outlet.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from services.applier.deciding import Version
from services.applier.judging import Conflict, Judge, Situation, Step
from services.applier.parsing import Parsed, Refused
from services.applier.view import Overlay, Reference, RowName, View, name_of, parent_key
from services.kernel.catalogue import ForeignKey, Table, folded
from services.kernel.change import Change, Op, Stamp
from services.kernel.values import Image, parse_image, render_image

MAX_DEPTH = 200
"""How many rows may have to be pulled forward for one another; deeper chains arise only from deferred foreign keys."""


@dataclass(frozen=True)
class Write:
    """One row written. `image` None: deleted. `renamed`: the row is there under that key, and its key is updated."""

    table: Table
    row: RowName
    image: Image | None
    existed: bool
    renamed: RowName | None = None


@dataclass
class Plan:
    """What one transaction comes to at this outlet, in an order in which it can be executed."""

    writes: list[Write] = field(default_factory=list)
    versions: dict[RowName, tuple[Table, Version]] = field(default_factory=dict)
    conflicts: list[Conflict] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    """New changes of this outlet's own, to be captured like the application's."""


def plan(changes: list[Parsed], view: View, situation: Situation, *, again: bool = False) -> tuple[Plan, Overlay]:
    """Raises Refused. `again`: a retry from quarantine; what loses now has been superseded, which is no conflict."""
    return _Planner(changes, view, situation, again).run()


class _Planner:
    def __init__(self, changes: list[Parsed], view: View, situation: Situation, again: bool) -> None:
        self._changes = changes
        self._overlay = Overlay(view)
        self._situation = situation
        self._again = again
        self._plan = Plan()
        self._steps: dict[RowName, list[Step]] = {}

    def run(self) -> tuple[Plan, Overlay]:
        judge = Judge(self._overlay, self._situation, again=self._again)
        winners = judge.judge(self._changes)
        self._plan.conflicts += judge.conflicts
        for step in winners:
            self._steps.setdefault(step.row, []).append(step)
        for step in winners:
            self._perform(step, 0)
        return self._plan, self._overlay

    # Placing a step: first what it needs, then itself.

    def _perform(self, step: Step, depth: int) -> None:
        if step.done or step.started:
            return
        if depth > MAX_DEPTH:
            raise Refused(
                "too_deep",
                f"More than {MAX_DEPTH} rows of one transaction wait for one another.",
                "Write such chains parents first, or in several transactions.",
            )
        for earlier in self._steps[step.row]:  # the changes of one row keep their order
            if earlier is step:
                break
            self._perform(earlier, depth + 1)
        if step.pair and step.image is not None:
            self._perform(
                step.pair, depth + 1
            )  # the old key first: it may take this one along, as an update of the key
            if step.done:
                return
        step.started = True
        if step.buried:
            self._note(step.table, step.row, step.version)
        elif step.image is None:
            self._delete(step, depth)
        else:
            self._upsert(step, step.image, depth)
        step.done = True

    def _upsert(self, step: Step, image: Image, depth: int) -> None:
        late = self._parents(step.table, image, depth)
        if late:
            # A cycle: the row goes in without that reference first, and gets it once the other row is there.
            missing = {folded(column): None for key in late for column in key.columns}
            self._write(step.table, step.row, image | missing)
            step.done = True
            for foreign_key in late:
                parent = self._parent(foreign_key, image)
                assert parent is not None
                for pending in self._steps.get(parent[1], ()):
                    self._perform(pending, depth + 1)
        self._write(step.table, step.row, image)
        self._note(step.table, step.row, step.version)

    def _parents(self, table: Table, image: Image, depth: int) -> list[ForeignKey]:
        """Sees to it that every parent is there. Returns the references that must wait: their parent waits for us."""
        late = []
        for foreign_key in table.foreign_keys:
            found = self._parent(foreign_key, image)
            if found is None or self._overlay.exists(found[1]) or found[1] == name_of(table, image):
                continue
            parent, row = found
            pending = [step for step in self._steps.get(row, ()) if not step.done and step.image is not None]
            if any(step.started for step in pending):
                if all(table.column(column).nullable for column in foreign_key.columns):
                    late.append(foreign_key)
                continue
            buried = [step for step in self._steps.get(row, ()) if step.buried]
            for step in [*buried, *pending[:1]]:  # what it is put back from must hold all that came before
                self._perform(step, depth + 1)
            if not self._overlay.exists(row):
                self._put_back(parent, row, foreign_key, table, depth)
        return late

    def _parent(self, foreign_key: ForeignKey, image: Image) -> tuple[Table, RowName] | None:
        parent = self._situation.catalogue.table(foreign_key.parent)
        row = parent_key(foreign_key, parent, image) if parent else None
        return (parent, row) if parent and row else None

    def _put_back(self, parent: Table, row: RowName, foreign_key: ForeignKey, child: Table, depth: int) -> None:
        tombstone = self._overlay.version(row)
        if tombstone is None or not tombstone.deleted or tombstone.last_image is None or depth > MAX_DEPTH:
            raise Refused(
                "missing_parent",
                f"{child.name} refers by {foreign_key.name} to {parent.name} {row.key}, which is not here.",
                "It is retried when that row comes.",
            )
        image = parse_image(parent, tombstone.last_image)
        self._parents(parent, image, depth + 1)
        self._write(parent, row, image)
        self._assert(parent, row, image, tombstone.stamp)

    def _delete(self, step: Step, depth: int) -> None:
        tombstone = step.version
        here = self._overlay.image(step.table, step.row) if self._overlay.exists(step.row) else None
        if here is None:
            self._note(step.table, step.row, tombstone)
            return
        new = step.pair if step.pair and not step.pair.done and not step.pair.started else None
        left = self._release(step, here, new, depth)
        # Where a key cannot be changed, the row goes, and comes again under its new one.
        free = new is not None and not self._overlay.exists(new.row) and not step.table.immutable_key
        if new and left:
            moving = [reference for reference in left if self._moves(reference, new)]
            cascading = all(reference.foreign_key.on_update == "CASCADE" for reference in moving)
            if free and cascading and len(moving) == len(left):
                self._rename(step, new, here, moving, depth)
                return
            if moving:
                self._perform_new(new, depth)
                for reference in moving:
                    for pending in self._moves(reference, new):
                        self._perform(pending, depth + 1)
                left = self._references(step, here)
                new = None
        if left and self._returns(step):
            self._note(step.table, step.row, tombstone)  # it stays meanwhile, for its children
        elif left:
            self._keep(step, here)
        elif new and free:
            self._rename(step, new, here, [], depth)
        else:
            self._withdraw(step.row)
            self._write(step.table, step.row, None)
            self._note(step.table, step.row, tombstone)

    def _withdraw(self, row: RowName) -> None:
        """A parent that was put back for a child which the same transaction takes away again, or moves, is not told to anybody."""
        self._plan.changes = [
            change for change in self._plan.changes if (folded(change.table), change.key) != (row.table, row.key)
        ]

    def _returns(self, step: Step) -> bool:
        """Whether the transaction inserts the row again."""
        later = self._steps[step.row]
        return any(other.image is not None for other in later[later.index(step) + 1 :])

    def _perform_new(self, new: Step, depth: int) -> None:
        assert new.image is not None
        new.started = True
        self._upsert(new, new.image, depth + 1)
        new.done = True

    def _release(self, step: Step, here: Image, new: Step | None, depth: int) -> list[Reference]:
        """Places first what takes the row's children away from it. Returns the children that stay."""
        for reference in self._references(step, here):
            for pending in self._steps.get(reference.row, ()):
                if new and pending.image is not None and self._points_at(reference, pending.image, new):
                    break  # it moves to the new key, which has to be there first
                self._perform(pending, depth + 1)
        return self._references(step, here)

    def _references(self, step: Step, here: Image) -> list[Reference]:
        return [reference for reference in self._overlay.references(step.table, here) if reference.row != step.row]

    def _points_at(self, reference: Reference, image: Image, new: Step) -> bool:
        found = self._parent(reference.foreign_key, image)
        return found is not None and found[1] == new.row

    def _moves(self, reference: Reference, new: Step) -> list[Step]:
        """The steps by which a child moves to the new key in this transaction."""
        return [
            pending
            for pending in self._steps.get(reference.row, ())
            if not pending.done and pending.image is not None and self._points_at(reference, pending.image, new)
        ]

    def _rename(self, step: Step, new: Step, here: Image, children: list[Reference], depth: int) -> None:
        assert new.image is not None
        new.started = True
        self._withdraw(step.row)
        self._parents(new.table, new.image, depth + 1)
        self._plan.writes.append(Write(new.table, new.row, new.image, existed=True, renamed=step.row))
        self._overlay.write(step.table, step.row, None)
        self._overlay.write(new.table, new.row, new.image)
        for child in children:  # what the cascade does, seen by the steps that follow
            moved = self._overlay.image(child.table, child.row)
            if moved is not None:
                pairs = zip(child.foreign_key.columns, child.foreign_key.parent_columns, strict=True)
                self._overlay.write(child.table, child.row, moved | {folded(c): new.image[folded(p)] for c, p in pairs})
        self._note(step.table, step.row, step.version)
        self._note(new.table, new.row, new.version)
        new.done = True

    def _keep(self, step: Step, here: Image) -> None:
        """Children that the author of the delete did not know of: the row stays, and says so to everybody."""
        local = self._overlay.version(step.row)
        self._plan.conflicts.append(
            Conflict(
                step.change,
                step.table.name,
                step.row,
                "foreign_key",
                "local",
                local.stamp if local else Stamp(0, ""),
                render_image(step.table, here),
            )
        )
        self._assert(step.table, step.row, here, step.change.stamp)

    def _assert(self, table: Table, row: RowName, image: Image, over: Stamp) -> None:
        """A new change of this outlet's own: the row stands, with this image, after `over`."""
        local = self._overlay.version(row)
        seen = max(over.time, local.stamp.time if local else 0)
        stamp = Stamp(max(self._situation.now, seen + 1), self._situation.outlet)
        text = render_image(table, image)
        # The same before as after: a tombstone that holds this stands elsewhere, and sums are not to count it again.
        self._plan.changes.append(Change(table.name, Op.INSERT, row.key, text, text, stamp, over))
        self._note(table, row, Version(stamp, over))

    def _write(self, table: Table, row: RowName, image: Image | None) -> None:
        self._plan.writes.append(Write(table, row, image, self._overlay.exists(row)))
        self._overlay.write(table, row, image)

    def _note(self, table: Table, row: RowName, version: Version) -> None:
        self._plan.versions[row] = (table, version)
        self._overlay.set_version(row, version)
