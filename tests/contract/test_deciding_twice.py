"""The service tries what is quarantined by itself while an operator decides about it: only one of the two takes effect."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Connection

from services.applier import quarantine
from services.applier.applying import Applier
from services.applier.quarantine import Quarantined
from services.applier.resolving import Choice
from services.kernel.control import Policy
from services.kernel.dialects import Purpose
from services.kernel.errors import TransientError
from tests.contract.outlets import MakeOutlet, Outlet

pytestmark = pytest.mark.parametrize("engine_name", ["mariadb", "mysql"])

SCHEMA = (
    "CREATE TABLE stock (sku VARCHAR(20) NOT NULL PRIMARY KEY, on_hand INTEGER NOT NULL, code VARCHAR(20) UNIQUE)",
    "INSERT INTO stock VALUES ('a', 1, NULL)",
)
RULES = Policy(1, '[tables.stock]\ndelta = ["on_hand"]\nminimum = { on_hand = 0 }')

Meanwhile = Callable[[Callable[[], object]], list[str]]


@pytest.fixture
def outlets(make_outlet: MakeOutlet) -> tuple[Outlet, Outlet]:
    amed, bali = (make_outlet(name, SCHEMA) for name in ("amed", "bali"))
    for outlet in (amed, bali):
        outlet.hear(RULES, 1)
    return amed, bali


@pytest.fixture
def operator(outlets: tuple[Outlet, Outlet]) -> Iterator[Applier]:
    """Of the command, in a process of its own."""
    bali = outlets[1]
    engine = bali.dialect.engine(bali.url, Purpose.APPLY)
    applier = Applier(engine, bali.dialect, "bali", ["*"], lambda: time.time_ns() // 1000)
    applier.refresh()
    yield applier
    engine.dispose()


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Meanwhile:
    """Has something done right after the entry was read for the first time. The codes of what it was refused for."""

    def arrange(interfere: Callable[[], object]) -> list[str]:
        found, codes = quarantine.find, list[str]()

        def find(connection: Connection, identity: int) -> Quarantined:
            entry = found(connection, identity)
            if not codes:
                codes.append("done")
                try:
                    interfere()
                except TransientError as error:
                    codes[0] = error.code
            return entry

        monkeypatch.setattr(quarantine, "find", find)
        return codes

    return arrange


def _one_too_few(amed: Outlet, bali: Outlet) -> int:
    """Both sell the last one; then bali gets five: what is quarantined loses its row, and adds to the sum."""
    amed.write("UPDATE stock SET on_hand = on_hand - 1")
    bali.write("UPDATE stock SET on_hand = on_hand - 1")
    batch = amed.take()
    assert batch is not None
    bali.apply(batch, 2)
    bali.write("UPDATE stock SET on_hand = on_hand + 5")
    (entry,) = bali.applier.waiting()
    assert entry.code == "minimum"
    return entry.id


def test_a_loser_adds_once(outlets: tuple[Outlet, Outlet], operator: Applier, meanwhile: Meanwhile) -> None:
    _, bali = outlets
    number = _one_too_few(*outlets)
    codes = meanwhile(lambda: operator.retry(number))
    bali.applier.retry(number)
    assert codes == ["lock_timeout"]
    assert bali.read("SELECT on_hand FROM stock") == [(4,)]


def test_what_was_told_to_be_discarded_is(
    outlets: tuple[Outlet, Outlet], operator: Applier, meanwhile: Meanwhile
) -> None:
    _, bali = outlets
    number = _one_too_few(*outlets)
    codes = meanwhile(lambda: operator.discard(number))
    bali.applier.retry(number)
    assert codes == ["lock_timeout"], "it is not told to be discarded"
    assert bali.read("SELECT State FROM subak_quarantine") == [("applied",)]


def test_two_resolve(outlets: tuple[Outlet, Outlet], operator: Applier, meanwhile: Meanwhile) -> None:
    amed, bali = outlets
    amed.write("INSERT INTO stock VALUES ('p', 1, 'same')")
    bali.write("INSERT INTO stock VALUES ('q', 1, 'same')")
    batch = amed.take()
    assert batch is not None
    bali.apply(batch, 2)
    (entry,) = bali.applier.waiting()
    codes = meanwhile(lambda: operator.resolve(entry.id, Choice(values={"code": "other"})))
    bali.applier.resolve(entry.id, Choice(keep="incoming"))
    assert codes == ["lock_timeout"]
    assert bali.read("SELECT sku FROM stock WHERE code IS NOT NULL") == [("p",)]
