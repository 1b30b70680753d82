"""`subak conflicts`: what was decided, at one outlet or in the whole network."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from sqlalchemy import select

from services.cli.console import console, grid, instant, moment, print_json
from services.cli.databases import concerns_hub, connected, hub_to_read, hub_url, outlet_settings, require_prepared
from services.hub import administration
from services.hub.reporting import ConflictTold, conflict_in
from services.kernel.schema import CONFLICT


def command(
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 50,
) -> None:
    """Two changes to one row, neither of which knew the other: both, and who won by which rule.

    Those of the whole network with SUBAK_HUB_DATABASE_URL, as the outlets told of them (of each batch the first hundred, long
    rows cut off); one outlet's own, whole, with SUBAK_DATABASE_URL.
    """
    told = _of_all(limit) if concerns_hub() else _of_one(limit)
    if as_json:
        print_json([_document(one) for one in told])
        return
    rows = [
        [
            *([one.outlet] if one.outlet else []),
            moment(one.reported_at),
            f"{one.conflict.table} {one.conflict.key}",
            f"{one.conflict.local_origin or 'here'} {moment(one.conflict.local_stamp)}",
            f"{one.conflict.incoming_origin} {moment(one.conflict.incoming_stamp)}",
            f"{one.conflict.winner} ({one.conflict.rule})",
        ]
        for one in told
    ]
    columns = ["decided", "row", "local", "incoming", "winner"]
    columns = ["outlet", *columns] if concerns_hub() else columns
    console.print(grid(columns, rows) if rows else "No conflicts.")


def _of_all(limit: int) -> list[ConflictTold]:
    with hub_to_read(hub_url()) as engine:
        return administration.conflicts(engine, limit)


def _of_one(limit: int) -> list[ConflictTold]:
    url = outlet_settings().database_url
    with connected(url) as (connection, _):
        require_prepared(connection, url)
        query = select(CONFLICT).order_by(CONFLICT.c.Id.desc()).limit(limit)
        return [
            ConflictTold("", row.Sequence, row.DecidedAt, conflict_in(row))
            for row in reversed(connection.execute(query).all())
        ]


def _document(one: ConflictTold) -> dict[str, Any]:
    it = one.conflict
    return {
        **({"outlet": one.outlet} if one.outlet else {}),
        "decided_at": instant(one.reported_at),
        "table": it.table,
        "key": it.key,
        "rule": it.rule,
        "winner": it.winner,
        "local": {"origin": it.local_origin, "stamp": instant(it.local_stamp), "row": it.local_image},
        "incoming": {"origin": it.incoming_origin, "stamp": instant(it.incoming_stamp), "row": it.incoming_image},
    }
