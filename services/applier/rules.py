"""The conflict rules that this outlet has taken up, in `subak_policy`.

Every function works in the caller's transaction and commits nothing.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import Connection

from services.kernel import policy
from services.kernel.control import Policy
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
        boundary = connection.scalar(sa.select(sa.func.max(CLOUD_QUERY.c.Id))) or 0
        row = {"Generation": given.generation, "Rules": given.rules, "Boundary": boundary, "AppliedAt": now}
        connection.execute(sa.insert(POLICY).values(**row))
