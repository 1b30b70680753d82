"""Triggers are there when they should be, as the table is now, and nowhere else."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from sqlalchemy.engine import URL

from services.capture import triggers
from services.kernel.dialects import Purpose
from services.kernel.errors import PermanentError, TransientError
from tests.contract.capture_outlet import Outlet
from tests.stack.servers import Servers

PRODUCT = "CREATE TABLE product (id INTEGER NOT NULL PRIMARY KEY, name VARCHAR(40) NOT NULL)"
CUSTOMER = "CREATE TABLE customer (id INTEGER NOT NULL PRIMARY KEY, name VARCHAR(40) NOT NULL)"
NOTE = "CREATE TABLE note (words VARCHAR(40))"


@pytest.fixture
def outlet(database_url: URL) -> Iterator[Outlet]:
    outlet = Outlet(database_url, PRODUCT, CUSTOMER)
    yield outlet
    outlet.close()


def check(outlet: Outlet, *patterns: str) -> triggers.Report:
    return triggers.check(outlet.database.reading, outlet.dialect, patterns or ("*",), outlet.name)


def test_installs_what_is_missing_and_leaves_what_is_right(outlet: Outlet) -> None:
    first = outlet.install()
    assert first.changed and not (first.unchanged or first.rebuilt or first.removed or first.refusals)
    second = outlet.install()
    assert not second.changed and set(second.unchanged) == set(first.installed)


def test_a_trigger_that_somebody_dropped_is_put_back(outlet: Outlet) -> None:
    dropped = outlet.install().installed[0]
    outlet.execute(f"DROP TRIGGER {outlet.dialect.identifier(dropped)}")
    assert check(outlet).installed == (dropped,)
    assert check(outlet).installed == (dropped,), "check changes nothing"
    assert outlet.install().installed == (dropped,)
    assert not check(outlet).changed


def test_a_table_that_changed_gets_new_triggers_that_know_the_new_column(outlet: Outlet) -> None:
    outlet.install()
    cutter = outlet.cutter()
    outlet.execute("ALTER TABLE product ADD COLUMN price INTEGER")
    rebuilt = outlet.install()
    assert rebuilt.rebuilt and all("product" in name for name in rebuilt.rebuilt)
    assert all("customer" in name for name in rebuilt.unchanged)
    outlet.execute("INSERT INTO product VALUES (1, 'teh', 12000)")
    assert cutter.poll() == 1
    ((transaction,),) = outlet.batches()
    assert '"price":12000' in (transaction.changes[0].after or "").replace(" ", "")


def test_a_table_that_is_no_longer_asked_for_loses_its_triggers(outlet: Outlet) -> None:
    outlet.install()
    report = outlet.install("cust*")
    assert report.removed and all("product" in name for name in report.removed)
    outlet.execute("INSERT INTO product VALUES (1, 'teh')", "INSERT INTO customer VALUES (1, 'Wayan')")
    assert outlet.cutter().poll() == 1


def test_a_table_without_a_key_is_refused_and_the_others_go_on(outlet: Outlet) -> None:
    outlet.execute(NOTE)
    report = outlet.install()
    assert [(refusal.table, bool(refusal.todo)) for refusal in report.refusals] == [("note", True)]
    assert any("product" in name for name in report.installed)
    assert not any("note" in name for name in report.installed)


def test_the_database_of_another_outlet_is_refused(outlet: Outlet) -> None:
    outlet.install()
    with pytest.raises(PermanentError) as raised:
        triggers.install(outlet.database.writing, outlet.dialect, ("*",), "bandung")
    assert raised.value.code == "other_outlet" and "SUBAK_OUTLET=jakarta" in raised.value.todo


def test_removes_all_on_request_and_what_waits_stays(outlet: Outlet) -> None:
    installed = outlet.install().installed
    outlet.execute("INSERT INTO product VALUES (1, 'teh')")
    report = triggers.remove(outlet.database.writing, outlet.dialect)
    assert set(report.removed) == set(installed)
    outlet.execute("INSERT INTO product VALUES (2, 'kopi')")
    assert outlet.waiting() == 1


@pytest.mark.parametrize("engine_name", ["mariadb", "mysql"])
def test_a_table_in_use_is_transient_and_does_not_queue_the_application_up_for_long(outlet: Outlet) -> None:
    with outlet.application.connect() as connection:
        connection.exec_driver_sql("INSERT INTO product VALUES (1, 'teh')")
        with pytest.raises(TransientError):
            outlet.install("product")
        connection.commit()
    assert outlet.install("product").changed


@pytest.mark.parametrize("engine_name", ["mariadb", "mysql"])
def test_a_missing_privilege_is_told_with_the_grant_that_helps(
    outlet: Outlet, servers: Servers, engine_name: str
) -> None:
    user = f"clerk_{outlet.url.database}"[:32]
    engine = outlet.dialect.engine(outlet.url.set(username=user, password="secret"), Purpose.WRITE)
    with servers.server(engine_name).administrator() as administrator:  # type: ignore[attr-defined]
        administrator.execute(f"CREATE USER '{user}'@'%' IDENTIFIED BY 'secret'")
        administrator.execute(
            f"GRANT SELECT, INSERT, UPDATE, DELETE, CREATE ON {outlet.url.database}.* TO '{user}'@'%'"
        )
        try:
            with pytest.raises(PermanentError) as raised:
                triggers.install(engine, outlet.dialect, ("*",), "jakarta")
            assert raised.value.code == "denied"
            (grant,) = re.findall(r"GRANT .*? ON <database>", raised.value.todo)
            administrator.execute(grant.replace("<database>", f"{outlet.url.database}.* TO '{user}'@'%'"))
            engine.dispose()
            assert triggers.install(engine, outlet.dialect, ("*",), "jakarta").installed
        finally:
            engine.dispose()
            administrator.execute(f"DROP USER '{user}'@'%'")
