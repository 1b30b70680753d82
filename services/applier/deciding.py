"""Who wins a row: one change against the version that stands here. Pure; the rules of design §6, policy `row`.

The greater (stamp, origin) wins the whole row: Thomas's write rule (1979) over a hybrid logical clock. That alone makes
outlets converge in whatever order changes come. What the *base* adds is knowing whether the author had seen the version
that he overwrote: if not, it is a conflict and leaves a trace.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from services.kernel.change import NEVER, Change, Op, Stamp


@dataclass(frozen=True)
class Version:
    """The last change that won a row, as the version table keeps it."""

    stamp: Stamp
    base: Stamp
    deleted: bool = False
    last_image: str | None = None
    columns: str | None = None
    """When each column was written last, where a conflict rule needs to know it; see `stamping.py`."""


class Verdict(StrEnum):
    WINS = "wins"
    LOSES = "loses"
    REFUSED = "refused"


@dataclass(frozen=True)
class Decision:
    """`conflict`: neither change knew the other. `code` and `reason`: why the transaction goes to quarantine."""

    verdict: Verdict
    conflict: bool = False
    code: str = ""
    reason: str = ""


GENERATED_KEY = "generated_key"
MISSING_ROW = "missing_row"


class Awaited(NamedTuple):
    """A quarantined change: the code, and whether it is still to come or has been discarded."""

    code: str
    waits: bool


AwaitedStamps = Mapping[Stamp, Awaited]
"""The quarantined changes of one row."""


def decide(
    change: Change, version: Version | None, exists: bool, awaited: AwaitedStamps, *, generated_key: bool
) -> Decision:
    """`exists`: the row is there. `generated_key`: an engine made up the key, so equal keys may be different rows."""
    local = version.stamp if version else NEVER
    follows = awaited.get(change.base)
    if follows and follows.code == GENERATED_KEY:
        return Decision(
            Verdict.REFUSED,
            code=GENERATED_KEY,
            reason="It follows an insert that is quarantined, whose generated key stands for another row here.",
        )
    known = change.base == local or change.base in awaited
    if (
        change.op is Op.INSERT
        and generated_key
        and exists
        and change.base == NEVER
        and change.stamp.origin != local.origin
    ):
        return Decision(
            Verdict.REFUSED,
            code=GENERATED_KEY,
            reason="Another row was inserted here under the same generated key.",
        )
    if change.stamp <= local:
        both_deleted = change.op is Op.DELETE and version is not None and version.deleted
        return Decision(Verdict.LOSES, conflict=not known and change.stamp != local and not both_deleted)
    if change.op is Op.UPDATE and not exists and version is None and change.base != NEVER and not known:
        return Decision(
            Verdict.REFUSED,
            code=MISSING_ROW,
            reason="It changes a row that is not here and never was, though its author had seen an older change of it.",
        )
    both_deleted = change.op is Op.DELETE and version is not None and version.deleted
    return Decision(Verdict.WINS, conflict=not known and not both_deleted)
