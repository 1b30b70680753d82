"""Resolves a clash for all outlets by one decision at one of them.

Where two keys have one unique value, each outlet keeps the row that came first there and quarantines the other; the same with two rows under one
generated key. A decision is therefore made of new changes of the outlet where it is made, which go everywhere: a row stated as it shall be (an INSERT whose
base is the quarantined change) or deleted. `superseding.py` tells how the other outlets take what these replace off their lists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from services.applier.clashes import UNIQUE, Clash, Looking, Row
from services.applier.deciding import GENERATED_KEY, Version
from services.applier.judging import Situation
from services.applier.planning import Plan
from services.applier.quarantine import Quarantined
from services.applier.view import RowName, name_of, parent_key
from services.kernel.catalogue import Column, Table, folded
from services.kernel.change import NEVER, Change, Op, Stamp
from services.kernel.errors import PermanentError
from services.kernel.values import Image, Value, canonical, render_image


@dataclass(frozen=True)
class Choice:
    """What the operator decides. Values are texts."""

    keep: Literal["local", "incoming"] | None = None
    """Which of two rows with one unique value stays; the other is deleted everywhere."""
    values: Mapping[str, str] = field(default_factory=dict)
    """By column: what the incoming row holds instead of the unique value, everywhere."""
    new_keys: Sequence[str] = ()
    """Under which key the incoming row goes on, everywhere: `KEY`, or `TABLE:OLD KEY=KEY` where several clash."""


@dataclass(frozen=True)
class Resolution:
    """`own`: new changes of this outlet. `left`: what is then applied of the quarantined transactions. `seen`: the versions that
    this was decided by, which must still stand when it is written. `entries`: what leaves quarantine."""

    own: list[Change]
    left: list[Change]
    seen: dict[RowName, Version | None]
    entries: list[Quarantined]


def resolution(looking: Looking, situation: Situation, entry: Quarantined, choice: Choice) -> Resolution:
    """Raises PermanentError `resolve` when the choice does not fit the clash."""
    clashes = looking.clashes(entry)
    if not clashes:
        raise _refused(
            f"No other row stands in the way of transaction {entry.id}, which waits for `{entry.code}`.",
            "Correct the cause and run `subak quarantine retry`; only a clash of unique values or of generated keys is resolved.",
        )
    fits = {
        UNIQUE: bool(choice.keep) != bool(choice.values) and not choice.new_keys,
        GENERATED_KEY: bool(choice.new_keys) and not choice.keep,
    }
    if not fits[entry.code]:
        options = {
            UNIQUE: "--keep local, --keep incoming or --set COLUMN=VALUE",
            GENERATED_KEY: "--new-key KEY, and --set COLUMN=VALUE with it where a value must be unique",
        }
        raise _refused(f"Transaction {entry.id} waits for `{entry.code}`.", f"Say one of: {options[entry.code]}.")
    made = _Making(looking, situation, entry)
    if entry.code == GENERATED_KEY:
        return made.under_new_keys(clashes, choice.new_keys, choice.values)
    if choice.values:
        return made.with_values(clashes, choice.values)
    return made.without_incoming(clashes) if choice.keep == "local" else made.without_local(clashes)


def verify(resolved: Resolution, part: Plan) -> None:
    """Raises PermanentError `resolve` when a row that was to be deleted had to stay."""
    for change in resolved.own:
        kept = [table.name for table, version in part.versions.values() if version.base == change.stamp]
        if change.op is Op.DELETE and kept:
            raise _refused(
                f"Other rows here refer to {change.table} {change.key}, so it cannot be deleted.",
                "Delete or move those first, or keep it and resolve the clash in the other way.",
            )


class _Making:
    def __init__(self, looking: Looking, situation: Situation, entry: Quarantined) -> None:
        self._looking = looking
        self._situation = situation
        self._entry = entry
        self._seen: dict[RowName, Version | None] = {}
        self._own: list[Change] = []

    def with_values(self, clashes: Sequence[Clash], values: Mapping[str, str]) -> Resolution:
        """The incoming row, with other values."""
        row = self._only(clashes)
        assert row.image is not None
        self._put(row.table, row.name, row.image, row.image | self._given(row, values), row.change.stamp)
        return self._done({row.name})

    def _given(self, row: Row, values: Mapping[str, str]) -> Image:
        unknown = [name for name in values if not row.table.has(name)]
        fixed = [name for name in values if folded(name) in {folded(one) for one in row.table.key}]
        if unknown or fixed:
            raise _refused(
                f"{', '.join(unknown + fixed)} is no column of {row.table.name} that can be set.",
                "Name columns of that table, and none of its key.",
            )
        return {folded(name): _value(row.table.column(name), text) for name, text in values.items()}

    def without_incoming(self, clashes: Sequence[Clash]) -> Resolution:
        rows = {clash.incoming.name: clash.incoming for clash in clashes}
        for row in rows.values():
            assert row.image is not None
            self._delete(row.table, row.name, row.image, row.change.stamp)
        return self._done(set(rows))

    def without_local(self, clashes: Sequence[Clash]) -> Resolution:
        for clash in {clash.holder: clash for clash in clashes}.values():
            version = clash.holder_version
            base = version.stamp if version else NEVER
            self._delete(clash.incoming.table, clash.holder, clash.holder_image, base)
        return self._done(set())

    def under_new_keys(self, clashes: Sequence[Clash], texts: Sequence[str], values: Mapping[str, str]) -> Resolution:
        """The incoming rows under new keys, what came with them and refers to them after them, and the rows here as they are."""
        keys = self._new_keys(clashes, texts)
        entries = self._looking.together(self._entry)
        rows = {one.row: Row(one.table, one.row, one.after, one.change) for one in self._looking.parsed(entries)}
        for clash in clashes:
            table = clash.incoming.table
            if self._situation.policies.rules.of(table.name).delta:
                raise _refused(
                    f"{table.name} has delta columns: what each of two rows under one key has added to them cannot be told apart.",
                    "Enter one of the two under another key by hand, and discard.",
                )
            # First, so that it gives no longer away what is unique of the other.
            self._put(table, clash.holder, clash.holder_image, clash.holder_image, clash.incoming.change.stamp)
        for clash in clashes:
            row = clash.incoming
            if row.image is None:
                continue  # deleted by its own outlet meanwhile
            given = self._given(self._only(clashes), values) if values else {}
            image = self._redirected(row.table, row.image | given | keys[row.name], keys)
            name = name_of(row.table, image)
            if self._looking.find(row.table, {one: image[folded(one)] for one in row.table.key}):
                raise _refused(f"There is a {row.table.name} {name.key} here already.", "Choose another key.")
            version = self._looking.version(row.table, name)
            self._put(row.table, name, None, image, version.stamp if version else NEVER)
        moved = set(keys)
        for row in rows.values():
            if row.name in keys or row.image is None:
                continue
            image = self._redirected(row.table, row.image, keys)
            if image != row.image:
                self._put(row.table, row.name, row.image, image, row.change.stamp)
                moved.add(row.name)
        return self._done(moved)

    def _new_keys(self, clashes: Sequence[Clash], texts: Sequence[str]) -> dict[RowName, Image]:
        """By old row: the generated column's new value."""
        named = {f"{clash.incoming.name.table}:{clash.incoming.name.key}": clash.incoming for clash in clashes}
        given = {folded(name): key for name, _, key in (text.rpartition("=") for text in texts)}
        if len(given) < len(texts):
            raise _refused("Two new keys are given for one row.", "Give each row that clashes one.")
        if set(given) == {""} and len(named) == 1:
            given = {next(iter(named)): given[""]}
        by_name = {folded(name): row for name, row in named.items()}
        if set(given) != set(by_name):
            raise _refused(
                f"These rows clash: {', '.join(sorted(named))}.",
                "Give each a new key: --new-key 'TABLE:OLD KEY=NEW KEY'.",
            )
        found: dict[RowName, Image] = {}
        for name, row in by_name.items():
            columns = [column for column in row.table.key_columns if column.generated]
            found[row.name] = {folded(column.name): _value(column, given[name]) for column in columns}
        return found

    def _redirected(self, table: Table, image: Image, keys: Mapping[RowName, Image]) -> Image:
        """The image, its references to moved rows following them."""
        new: dict[str, Value] = {}
        for foreign_key in table.foreign_keys:
            parent = self._situation.catalogue.table(foreign_key.parent)
            moved = keys.get(parent_key(foreign_key, parent, image)) if parent else None  # type: ignore[arg-type]
            for column, parent_column in zip(foreign_key.columns, foreign_key.parent_columns, strict=True):
                if moved and folded(parent_column) in moved:
                    new[folded(column)] = moved[folded(parent_column)]
        return image | new

    def _only(self, clashes: Sequence[Clash]) -> Row:
        rows = {clash.incoming.name: clash.incoming for clash in clashes}
        if len(rows) > 1:
            names = ", ".join(f"{row.table.name} {row.name.key}" for row in rows.values())
            raise _refused(
                f"Several rows clash: {names}.",
                "Say --keep local or --keep incoming for all of them; --set is for one.",
            )
        (row,) = rows.values()
        return row

    def _put(self, table: Table, name: RowName, before: Image | None, after: Image, base: Stamp) -> None:
        self._add(table, name, Op.INSERT, before, after, base)

    def _delete(self, table: Table, name: RowName, image: Image, base: Stamp) -> None:
        self._add(table, name, Op.DELETE, image, None, base)

    def _add(self, table: Table, name: RowName, op: Op, before: Image | None, after: Image | None, base: Stamp) -> None:
        version = self._seen[name] = self._looking.version(table, name)
        later = max(base.time, version.stamp.time if version else 0) + 1
        stamp = Stamp(max(self._situation.now, later), self._situation.outlet)
        old, new = (render_image(table, image) if image is not None else None for image in (before, after))
        generation = self._situation.policies.generation_of(2**63 - 1)
        self._own.append(Change(table.name, op, name.key, old, new, stamp, base, policy=generation))

    def _done(self, without: set[RowName]) -> Resolution:
        """`without`: rows of which nothing is applied of what is quarantined, since they are stated anew, or gone."""
        entries = self._looking.together(self._entry)
        left = [one.change for one in self._looking.parsed(entries) if one.row not in without]
        return Resolution(self._own, left, self._seen, entries)


def _value(column: Column, text: str) -> Value:
    """What an operator has written is of the column's type, also where the engine would keep anything. Raises PermanentError `value`."""
    return canonical(replace(column, loose=False), text)


def _refused(what: str, todo: str) -> PermanentError:
    return PermanentError("resolve", what, todo)
