"""What the operator's commands do at the hub's database, and what they read there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine
from sqlalchemy.engine import URL

from services.cli.status import hub_status, warnings
from services.hub import administration, state
from services.hub.administration import HubState
from services.hub.delivering import Ack
from services.hub.limits import Backlog, Limits, give_up, keep_limits
from services.hub.querylog import LogStatus
from services.hub.queue import Group, Queue, open_queue
from services.hub.reporting import keep_skew, keep_tables, report
from services.hub.storing import Arrival
from services.kernel.change import GENESIS, NEVER, BatchId, Change, Op, Stamp, Transaction, digest, encode_body
from services.kernel.dialects import Purpose, dialect_for
from services.kernel.errors import PermanentError
from services.kernel.wire.messages import Batch, Executed, QuarantineReport, Report

NOW = 1_700_000_000_000_000


@pytest.fixture
def queue(hub_url: URL) -> Iterator[Queue]:
    queue = open_queue(hub_url, lambda: NOW)
    queue.prepare()
    yield queue
    queue.close()


@pytest.fixture
def engine(queue: Queue, hub_url: URL) -> Iterator[Engine]:
    engine = dialect_for(hub_url).engine(hub_url, Purpose.WRITE)
    yield engine
    engine.dispose()


def store(queue: Queue, origin: str, changes: int) -> None:
    stamp = Stamp(NOW, origin)
    rows = tuple(Change("product", Op.INSERT, f"[{key}]", None, '{"secret":1}', stamp, NEVER) for key in range(changes))
    body = encode_body((Transaction("7", rows),))
    own = digest(BatchId(origin, "e1", 1), GENESIS, body)
    queue.commit(Group(arrivals=[Arrival(origin, Batch("e1", 1, GENESIS, own, changes, 1, len(body), 1), body)]))


def test_outlets_come_and_go(engine: Engine) -> None:
    administration.add(engine, "amed", "Sawah", "Amed 🌾")
    administration.add(engine, "bedugul")
    with pytest.raises(PermanentError):
        administration.add(engine, "amed")
    administration.ignore(engine, "amed", "bedugul")
    assert administration.ignored(engine) == [("amed", "bedugul")]
    administration.unignore(engine, "amed", "bedugul")
    administration.remove(engine, "bedugul")
    (amed,) = administration.listed(engine)
    assert (amed.name, amed.company, amed.place, amed.online) == ("amed", "Sawah", "Amed 🌾", False)


def test_the_hub_says_how_it_is(engine: Engine, queue: Queue) -> None:
    assert administration.hub_state(engine) is HubState.STOPPED
    queue.write(state.put, state.SEEN, str(NOW))
    assert administration.hub_state(engine) is HubState.FAILED
    queue.write(state.put, state.SEEN, str(2**62))
    assert administration.hub_state(engine) is HubState.RUNNING
    administration.pause(engine)
    assert administration.hub_state(engine) is HubState.PAUSED
    administration.resume(engine)
    assert administration.hub_state(engine) is HubState.RUNNING


def test_status_says_what_people_must_act_on(engine: Engine, queue: Queue) -> None:
    for name in ("amed", "bedugul", "candi"):
        administration.add(engine, name)
    assert "given_up" in hub_status(engine, None)["outlets"][0]
    assert list(warnings(hub_status(engine, None))) == []
    store(queue, "amed", 1)
    queue.write(keep_limits, Limits(1e12, 1))
    queue.write(keep_skew, "candi", NOW - 5_000_000, NOW)
    queue.write(keep_tables, "candi", {"product": "a", "stock": "c"})
    queue.write(keep_tables, "bedugul", {"product": "b"})
    queue.write(report, "bedugul", Report(0, 0, ["product.price may be NULL."]))
    queue.write(give_up, "candi", Limits(1e12, 1), Backlog(1, 9, 1.0), NOW)
    said = list(warnings(hub_status(engine, None)))
    assert any(line.startswith("bedugul takes nothing") for line in said)
    assert any(line.startswith("candi was given up") and "9 bytes" in line for line in said)
    assert "candi: its database's clock is 5.0 s behind. Set it by NTP." in said
    assert "bedugul: product.price may be NULL." in said
    assert not any("columns" in line for line in said), "who was given up is compared with nobody"
    queue.write(keep_tables, "amed", {"product": "a", "stock": "c"})
    said = list(warnings(hub_status(engine, None)))
    assert "product does not have the same columns at amed and bedugul." in said
    assert "stock is not synchronised at bedugul: what comes for it is held there." in said


def test_the_query_log_tells_what_went_where(engine: Engine, queue: Queue) -> None:
    administration.add(engine, "amed")
    store(queue, "amed", 1)
    administration.add(engine, "bedugul")
    administration.add(engine, "candi")
    store(queue, "bedugul", 5)
    reports = [QuarantineReport(0, "check", "price")]
    queue.commit(Group(acks=[Ack("candi", Executed(2, quarantined=reports))]))
    rows = administration.log(engine)
    assert [(row.sequence, row.origin, row.outlet, row.changes, row.status) for row in rows] == [
        (1, "amed", None, 1, LogStatus.STORED),
        (2, "bedugul", "amed", 5, LogStatus.WAITING),
        (2, "bedugul", "candi", 5, LogStatus.QUARANTINED),
    ]
    assert rows[0].message == "insert into product [0]"
    assert rows[1].message == "insert into product [0]; insert into product [1]; insert into product [2]; 2 more"
    assert {row.sequence for row in administration.log(engine, after=1)} == {2}
    assert {row.sequence for row in administration.log(engine, limit=1)} == {2}
    assert administration.log(engine, after=2) == []
    amed, bedugul, candi = administration.status(engine)
    assert (amed.waiting, bedugul.waiting, candi.waiting, candi.quarantined) == (1, 0, 0, 1)
    assert amed.oldest_waiting_seconds > 0
