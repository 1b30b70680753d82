"""One process at a time has the lease of a database, and the next one gets it when that one is gone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL

from services.kernel.dialects import Lease, dialect_for
from tests.conftest import FreshDatabase
from tests.contract.capture_outlet import until
from tests.stack.application import application_engine
from tests.stack.servers import die_with_parent

HOLDER = """
import sys, time
from sqlalchemy import make_url
from services.kernel.dialects import dialect_for
url = make_url(sys.argv[1])
lease = dialect_for(url).lease(url, "capture")
print("held" if lease else "refused", flush=True)
time.sleep(600)
"""


def take(url: URL, role: str = "capture") -> Lease | None:
    return dialect_for(url).lease(url, role)


def taken(url: URL) -> Lease:
    lease = take(url)
    assert lease is not None
    return lease


def test_one_at_a_time_and_given_back(database_url: URL) -> None:
    first = taken(database_url)
    assert take(database_url) is None
    assert first.holds()
    first.release()
    second = taken(database_url)
    assert second.holds()
    second.release()


def test_each_role_and_each_database_has_its_own(fresh_database: FreshDatabase, engine_name: str) -> None:
    here, there = fresh_database(engine_name), fresh_database(engine_name, "other")
    leases = [taken(here), take(here, "applier"), taken(there)]
    assert all(lease is not None and lease.holds() for lease in leases)
    for lease in leases:
        if lease is not None:
            lease.release()


def test_it_goes_with_the_process(database_url: URL) -> None:
    given = database_url.render_as_string(hide_password=False)
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, given], stdout=subprocess.PIPE, preexec_fn=die_with_parent)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        assert take(database_url) is None
    finally:
        holder.kill()
        holder.communicate()
    found: list[Lease] = []

    def free() -> bool:
        lease = take(database_url)
        found.extend([lease] if lease else [])
        return lease is not None

    until(free, "the lease of the dead process is free")
    found[0].release()


@pytest.mark.parametrize("engine_name", ["mariadb", "mysql"])
def test_it_goes_with_its_connection(database_url: URL) -> None:
    lease = taken(database_url)
    application = application_engine(database_url)
    with application.connect() as connection:
        mine = connection.scalar(text("SELECT CONNECTION_ID()"))
        for (other,) in connection.execute(text("SELECT ID FROM information_schema.PROCESSLIST")).all():
            if other != mine:
                connection.execute(text(f"KILL {int(other)}"))
    application.dispose()
    until(lambda: not lease.holds(), "it is known to be lost")
    lease.release()
    taken(database_url).release()


@pytest.mark.parametrize("engine_name", ["sqlite"])
def test_a_lock_file_that_was_removed_is_no_lease(database_url: URL) -> None:
    lease = taken(database_url)
    database = Path(str(database_url.database))
    database.with_name(f"{database.name}-subak-capture.lock").unlink()
    assert not lease.holds()
    other = taken(database_url)
    assert other.holds() and not lease.holds()
    lease.release()
    assert other.holds()
    other.release()


@pytest.mark.parametrize("engine_name", ["sqlite"])
def test_another_database_file_in_the_place_of_ours_ends_the_lease(database_url: URL) -> None:
    database = Path(str(database_url.database))
    database.write_bytes(b"")
    lease = taken(database_url)
    backup = database.with_name("backup.db")
    backup.write_bytes(database.read_bytes())
    assert lease.holds()
    backup.replace(database)
    assert not lease.holds()
    lease.release()
    again = taken(database_url)
    assert again.holds()
    again.release()
