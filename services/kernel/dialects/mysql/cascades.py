"""Cascading foreign keys. InnoDB changes the children without firing their triggers, so the parent's triggers capture them.

A BEFORE trigger of the parent notes the children by following the foreign keys; its AFTER trigger turns the notes into changes. What cannot be
followed (a table that cascades to itself, a child whose primary key is changed, ...) is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from services.kernel.catalogue import Catalogue, ForeignKey, Table, folded
from services.kernel.dialects.mysql.expressions import identifier, image_sql, key_sql, literal, same_values
from services.kernel.dialects.template import render

Members = Mapping[str, Table]
"""Synchronised tables by folded name."""


@dataclass(frozen=True)
class _Link:
    """A foreign key and the child it belongs to."""

    child: Table
    key: ForeignKey


def _children(parent: Table, members: Members) -> Iterator[_Link]:
    for table in members.values():
        for key in table.foreign_keys:
            if folded(key.parent) == folded(parent.name):
                yield _Link(table, key)


def why_not(table: Table, key: ForeignKey, members: Members) -> str | None:
    """Why what this cascading foreign key does to `table` could not be captured; None when it can."""
    parent = members.get(folded(key.parent))
    if parent is None:
        return f"and {key.parent}, whose triggers would have to tell, is not synchronised"
    if key.on_delete == "CASCADE" and folded(table.name) in _deleting(parent, members):
        return "and the cascade comes back to the table itself"
    if key.on_delete == "SET NULL":
        for other in table.foreign_keys:
            if other.name != key.name and other.on_delete == "SET NULL" and _meet(key, other, members):
                return f"and one deletion may reach a row through both {key.name} and {other.name}"
    if key.on_update in ("CASCADE", "SET NULL") and parent is not table:
        changed = {folded(column) for column in key.columns}
        if changed & {folded(column) for column in table.key}:
            return "and it changes the primary key"
        for link in _children(table, members):
            if link.key.on_update in ("CASCADE", "SET NULL") and changed & set(map(folded, link.key.parent_columns)):
                return f"and {link.child.name} follows in its turn"
    return None


def _deleting(table: Table, members: Members) -> set[str]:
    """The folded names of `table` and of every table whose deletions cascade to it, at whatever distance."""
    found, new = {folded(table.name)}, [table]
    while new:
        for key in new.pop().foreign_keys:
            parent = members.get(folded(key.parent))
            if key.on_delete == "CASCADE" and parent is not None and folded(parent.name) not in found:
                found.add(folded(parent.name))
                new.append(parent)
    return found


def _meet(one: ForeignKey, other: ForeignKey, members: Members) -> bool:
    """Whether one deletion can reach a row by both: two keys to one parent are taken together, if it is the parent's own deletion."""
    ways = [_deleting(members[name], members) for key in (one, other) if (name := folded(key.parent)) in members]
    common = set.intersection(*ways) if len(ways) == 2 else set()
    return bool(common - {folded(one.parent)} if folded(one.parent) == folded(other.parent) else common)


@dataclass(frozen=True)
class Cascade:
    """What an event of the parent's rows does to children: statements for trigger_cascading.sql and cascaded_rows.sql."""

    notes: str
    voids: str


def cascade(parent: Table, catalogue: Catalogue, event: str) -> Cascade | None:
    """`event`: DELETE or UPDATE. None when it cascades to no child."""
    members = {folded(table.name): table for table in catalogue.tables}
    hits = [*_deleted(parent, members)] if event == "DELETE" else []
    hits += _changed(parent, members, event, [])
    if not hits:
        return None
    parts = [
        [render("mysql", template, {"table_name": literal(parent.name), **hit}) for hit in hits]
        for template in ("cascaded_note", "cascaded_void")
    ]
    return Cascade("\n        ".join(parts[0]), "\n            ".join(parts[1]))


def referenced_changed(parent: Table, catalogue: Catalogue) -> str:
    """Whether an UPDATE changes a column of `parent` that a child follows."""
    names = {
        folded(column)
        for table, key in catalogue.children(parent)
        if key.on_update in ("CASCADE", "SET NULL")
        for column in key.parent_columns
    }
    return f"NOT {same_values([c for c in parent.columns if folded(c.name) in names], 'NEW', 'OLD')}"


def _deleted(parent: Table, members: Members, way: tuple[_Link, ...] = ()) -> Iterator[dict[str, str]]:
    """Children, and theirs, that a deletion of `parent` deletes; and what those deletions set to NULL."""
    for link in _children(parent, members):
        if link.key.on_delete == "CASCADE":
            further = (*way, link)
            yield _hit(link.child, further, "NULL")
            yield from _deleted(link.child, members, further)
            yield from _changed(link.child, members, "DELETE", [*further])


def _changed(parent: Table, members: Members, event: str, way: list[_Link]) -> Iterator[dict[str, str]]:
    """Children whose foreign key gets another value when `parent`, reached by `way`, is deleted or its key is updated."""
    by_child: dict[str, list[_Link]] = {}
    for link in _children(parent, members):
        action = link.key.on_delete if event == "DELETE" else link.key.on_update
        if action == "SET NULL" or (action == "CASCADE" and event == "UPDATE" and link.child is not parent):
            by_child.setdefault(link.child.name, []).append(link)
    for links in by_child.values():
        child = links[0].child
        values: dict[str, str] = {}
        for link in links:
            is_hit = _refers(link.key, "c", "OLD") if not way else "TRUE"
            for column, parent_column in zip(link.key.columns, link.key.parent_columns, strict=True):
                action = link.key.on_delete if event == "DELETE" else link.key.on_update
                new = f"NEW.{identifier(parent_column)}" if action == "CASCADE" else "NULL"
                old = values.get(folded(column), f"c.{identifier(column)}")
                values[folded(column)] = f"IF({is_hit}, {new}, {old})"
        after = image_sql(child, "c", values)
        if way:
            yield _hit(child, (*way, links[0]), after)
        else:
            condition = " OR ".join(f"({_refers(link.key, 'c', 'OLD')})" for link in links)
            still = " OR ".join(f"({_refers_exactly(link.key, 'c', 'OLD')})" for link in links)
            yield _described(child, f"{identifier(child.name)} AS c", condition, still, after)


def _hit(child: Table, way: tuple[_Link, ...], after: str) -> dict[str, str]:
    """The rows of `child` at the end of `way`, which begins at the parent's row OLD."""
    aliases = [*(f"p{i}" for i in range(1, len(way))), "c"]
    children = f"{identifier(way[0].child.name)} AS {aliases[0]}"
    for link, parent_alias, alias in zip(way[1:], aliases, aliases[1:], strict=False):
        children += f" INNER JOIN {identifier(link.child.name)} AS {alias} ON {_refers(link.key, alias, parent_alias)}"
    condition, still = (refers(way[0].key, aliases[0], "OLD") for refers in (_refers, _refers_exactly))
    return _described(child, children, condition, still, after)


def _described(child: Table, children: str, condition: str, still: str, after: str) -> dict[str, str]:
    return {
        "child_name": literal(child.name),
        "child_key": key_sql(child, "c"),
        "child_image": image_sql(child, "c"),
        "child_after": after,
        "children": children,
        "child_is_hit": condition,
        "child_is_still_so": still,
    }


def _refers(key: ForeignKey, child: str, parent: str) -> str:
    pairs = zip(key.columns, key.parent_columns, strict=True)
    return " AND ".join(f"{child}.{identifier(own)} = {parent}.{identifier(theirs)}" for own, theirs in pairs)


def _refers_exactly(key: ForeignKey, child: str, parent: str) -> str:
    """In bytes too: a key that changed from 'a' to 'A' has taken its children along."""
    same = [
        f"CAST(CAST({child}.{identifier(own)} AS CHAR) AS BINARY) = CAST(CAST({parent}.{identifier(theirs)} AS CHAR) AS BINARY)"
        for own, theirs in zip(key.columns, key.parent_columns, strict=True)
    ]
    return " AND ".join([_refers(key, child, parent), *same])
