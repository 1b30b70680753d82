"""Any interleaving of writes, deletes, re-inserts, key changes, killed services and wrong clocks, on real databases.

The same property is checked by thousands of cases in the simulation (tests/unit); here a few dozen run through real services,
triggers and constraints. Few rows and few unique values, so that nearly everything conflicts with something.
"""

from __future__ import annotations

import itertools
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from sqlalchemy.exc import IntegrityError

from tests.scenarios.conftest import OUTLETS
from tests.stack.audit import audit
from tests.stack.network import Network

EXAMPLES = int(os.environ.get("SUBAK_TEST_EXAMPLES", "12"))
ROWS = 3
CLOCK_SECONDS = (0.0, 0.0, 0.0, -1.5, 1.5)

_bases = itertools.count(1_000_000, 100)


@dataclass(frozen=True)
class Write:
    """One transaction of one outlet; `clock`: by how much its session's clock is wrong, in seconds (not on SQLite)."""

    outlet: str
    statements: tuple[str, ...]
    clock: float


@dataclass(frozen=True)
class Kill:
    process: str


@dataclass(frozen=True)
class Meet:
    """Everything that was written so far arrives everywhere before anything else is written."""


_id = st.integers(0, ROWS - 1)
_email = st.one_of(st.just("NULL"), st.sampled_from(["'a{base}@x'", "'b{base}@x'"]))
_statement = st.one_of(
    st.builds("INSERT INTO member (id, email, name) VALUES ({{base}} + {0}, {1}, 'new')".format, _id, _email),
    st.builds("UPDATE member SET name = 'n{1}' WHERE id = {{base}} + {0}".format, _id, st.integers(0, 99)),
    st.builds("UPDATE member SET email = {1}, points = points + 1 WHERE id = {{base}} + {0}".format, _id, _email),
    st.builds("UPDATE member SET id = {{base}} + {1} WHERE id = {{base}} + {0}".format, _id, _id),
    st.builds("DELETE FROM member WHERE id = {{base}} + {0}".format, _id),
    st.builds("INSERT INTO visit (id, member_id) VALUES ({{base}} + {0}, {{base}} + {1})".format, _id, _id),
    st.builds("UPDATE visit SET member_id = {{base}} + {1} WHERE id = {{base}} + {0}".format, _id, _id),
    st.builds("DELETE FROM visit WHERE id = {{base}} + {0}".format, _id),
    st.builds("INSERT INTO node (id, parent_id, title) VALUES ({{base}} + {0}, NULL, 't')".format, _id),
    st.builds("UPDATE node SET parent_id = {{base}} + {1} WHERE id = {{base}} + {0}".format, _id, _id),
    st.builds("DELETE FROM node WHERE id = {{base}} + {0}".format, _id),
)
_write = st.builds(
    Write,
    st.sampled_from(OUTLETS),
    st.lists(_statement, min_size=1, max_size=3).map(tuple),
    st.sampled_from(CLOCK_SECONDS),
)
_processes = ["hub", *(f"{service}.{outlet}" for service in ("capture", "applier") for outlet in OUTLETS)]
_step: st.SearchStrategy[Any] = st.one_of(*[_write] * 8, st.builds(Kill, st.sampled_from(_processes)), st.builds(Meet))


def _perform(network: Network, write: Write, base: int) -> None:
    """A session that the server cuts off takes its transaction with it, as it would without Subak."""
    outlet = network.outlets[write.outlet]
    clock = write.clock if outlet.engine_name in ("mysql", "mariadb") else 0.0  # elsewhere it is the machine's
    try:
        with outlet.application.begin() as connection:
            if clock:
                connection.exec_driver_sql(f"SET SESSION timestamp = UNIX_TIMESTAMP(NOW(6)) + {clock}")
            for statement in write.statements:
                with suppress(IntegrityError):  # the outlet's own database says no, as it would without Subak
                    connection.exec_driver_sql(statement.format(base=base))
            if clock:
                connection.exec_driver_sql("SET SESSION timestamp = DEFAULT")
    except Exception as error:
        if CUT_OFF not in str(error):
            raise


CUT_OFF = "08S01"
"""The ODBC driver's word for it."""


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)
@given(steps=st.lists(_step, min_size=6, max_size=30))
def test_whatever_happens_all_outlets_are_equal_but_for_what_is_quarantined(network: Network, steps: list[Any]) -> None:
    base = next(_bases)
    stretches: list[list[Any]] = [[]]
    for step in steps:
        if isinstance(step, Meet):
            stretches.append([])
        else:
            stretches[-1].append(step)
    for stretch in stretches:
        killed = set()
        with network.apart():
            for step in stretch:
                note(repr(step))
                if isinstance(step, Kill):
                    killed.add(step.process)
                    if network.processes[step.process].alive:
                        network.kill(step.process)
                else:
                    _perform(network, step, base)
        if killed:
            network.start()
        network.settle()
    found = audit(network.urls, except_quarantined=True)
    assert found.identical, str(found)
