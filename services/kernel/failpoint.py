"""Named points at which a test may kill this very process, as a power cut would: no handler runs, nothing is flushed.

The idea is FreeBSD's fail(9). Without the environment variable a point costs one dictionary look-up.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "SUBAK_FAILPOINT"
"""`name` or `name:n`: SIGKILL the n-th time (default: the first) that the point is reached. For tests only."""


def _armed(setting: str) -> dict[str, int]:
    name, _, count = setting.partition(":")
    return {name: int(count or 1)} if name else {}


_remaining = _armed(os.environ.get(VARIABLE, ""))


def reach(name: str) -> None:
    if name in _remaining:
        _remaining[name] -= 1
        if _remaining[name] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
