"""The conflict rules that this outlet has taken up, in `subak_policy`.

Every function works in the caller's transaction and commits nothing.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Connection

from services.kernel import policy
from services.kernel.control import Policy
from services.kernel.dialects import dialect_for
from services.kernel.policy import Given, Policies
from services.kernel.schema import CLOUD_QUERY, POLICY, STATE

CUTTER = "last_number"
"""The row of `subak_state` that capture locks while it cuts a batch."""


def read(connection: Connection) -> Policies:
    """Raises PermanentError `policy`."""
    rows = connection.execute(sa.select(POLICY.c.Generation, POLICY.c.Rules, POLICY.c.Boundary))
    return Policies([Given(row.Generation, policy.parse(row.Rules), row.Boundary) for row in rows])


def take_up(connection: Connection, given: Policy, now: int) -> None:
    """From here on: changes whose Id in `CloudQuery` is greater than any now are made under these rules. No batch is cut meanwhile, so each
    of the others was cut before, under the rules until now, or will be seen to have a smaller Id.

    Raises PermanentError `policy` when this program does not understand the rules.
    """
    policy.parse(given.rules)
    connection.execute(sa.update(STATE).where(STATE.c.Name == CUTTER).values(Value=STATE.c.Value))
    if connection.scalar(sa.select(POLICY.c.Generation).where(POLICY.c.Generation == given.generation)) is None:
        # Exported rows are forgotten one day, and Ids go on all the same.
        before = connection.scalar(sa.select(sa.func.max(POLICY.c.Boundary))) or 0
        boundary = max(connection.scalar(_greatest(connection)) or 0, before)
        row = {"Generation": given.generation, "Rules": given.rules, "Boundary": boundary, "AppliedAt": now}
        connection.execute(sa.insert(POLICY).values(**row))


def _greatest(connection: Connection) -> sa.Select[tuple[int]]:
    """The greatest Id. Where a query may have to wait for what the application has not committed, that is passed over: it is under the
    newer rules by its Id."""
    query = sa.select(CLOUD_QUERY.c.Id).order_by(CLOUD_QUERY.c.Id.desc()).limit(1)
    dialect = dialect_for(connection.engine.url)
    return query if dialect.scans_a_snapshot(connection) else dialect.passing(query, CLOUD_QUERY)
