"""The network that `docker compose up` gives: healthy soon, quick, and whole whatever happens to its containers while the tills sell.

The seed is printed. To replay: SUBAK_TEST_SEED=... make stack-test
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable
from itertools import count
from statistics import median

from tests.integration.faults import FAULTS, cut_off, killed, paused
from tests.stack.audit import audit
from tests.stack.compose import Stack
from tests.stack.network import Outlet, wait_for
from tests.stack.tills import Tills

SEED = int(os.environ.get("SUBAK_TEST_SEED", random.randrange(2**32)))

SECOND = 1.0
"""The README's promise, on a machine that does nothing else; the typical row must keep it anywhere."""

ARRIVED_SECONDS = 30.0
ROWS = 20
PAUSE = 0.03
"""Of a till, between two transactions."""

CUSTOMERS = 900_000_000
"""Numbers that no till gives."""

LARGE, LARGE_ROWS, ROWS_PER_STATEMENT = 950_000_000, 50_000, 1000
"""The first number; the rows of one transaction; what SQL Server takes in one statement."""

LARGE_SECONDS = 120.0

Note = Callable[[str], None]


def whole(stack: Stack) -> None:
    """At rest, and equal by an audit that shares no code with the product; nothing lies in quarantine."""
    stack.settle()
    found = audit(stack.urls)
    assert found.identical, str(found)
    assert sum(found.counts.values()) > 0
    for outlet in stack.outlets.values():
        assert outlet.count("SELECT COUNT(*) FROM subak_quarantine WHERE State = 'waiting'") == 0, outlet.name


_tills = count(1)


def under_load(stack: Stack, seed: str, act: Callable[[], None]) -> str:
    """Tills sell at every outlet while `act` does what it does; in the end all is whole. What the tills did, in words.

    No till changes a key: a row that gets another one while somebody else changes it becomes two rows, of which both keep the unique
    value; they would be quarantined, rightly.
    """
    first = next(_tills) * len(stack.outlets)
    tills = Tills(stack.urls, seed, pause=PAUSE, patient=True, first=first, key_changes=False)
    with tills:
        act()
        stack.wait_healthy()
        done = tills.stop()
    whole(stack)
    return f"{done['transactions']} transactions, away {dict(tills.away)}"


def test_what_one_outlet_inserts_is_at_the_other_within_a_second(stack: Stack, note: Note) -> None:
    names = list(stack.outlets)
    took: list[float] = []
    arrived = "SELECT COUNT(*) FROM customers WHERE id = :id"
    for number in range(ROWS):
        here, there = stack.outlets[names[number % len(names)]], stack.outlets[names[(number + 1) % len(names)]]
        customer = CUSTOMERS + number
        here.execute(f"INSERT INTO customers (id, name, email, points) VALUES ({customer}, 'Ketut ☕', NULL, 0)")
        began = time.monotonic()
        wait_for("the row", lambda there=there, id=customer: there.count(arrived, id=id) == 1, ARRIVED_SECONDS, 0.005)  # type: ignore[misc]
        took.append(time.monotonic() - began)
    took.sort()
    shown = f"an INSERT is at the other outlet after {median(took) * 1000:.0f} ms (median of {ROWS}), {took[-1] * 1000:.0f} ms at most"
    note(shown)
    assert median(took) < SECOND, shown
    whole(stack)


def test_a_large_transaction_is_there_whole_or_not_at_all_and_nobody_is_killed_for_its_memory(
    stack: Stack, note: Note
) -> None:
    here, *others = stack.outlets.values()
    before = {service: stack.inspect(service)["RestartCount"] for service in stack.services}
    numbers = range(LARGE, LARGE + LARGE_ROWS)
    inserts = [
        "INSERT INTO customers (id, name, points) VALUES "
        + ", ".join(f"({number}, 'Luh {number}', 0)" for number in numbers[first : first + ROWS_PER_STATEMENT])
        for first in range(0, LARGE_ROWS, ROWS_PER_STATEMENT)
    ]
    there = f"SELECT COUNT(*) FROM customers WHERE id BETWEEN {numbers[0]} AND {numbers[-1]}"
    for statements, wanted in ((inserts, LARGE_ROWS), ([f"DELETE FROM customers WHERE id >= {LARGE}"], 0)):
        here.execute(*statements)
        began = time.monotonic()
        for outlet in others:
            seen = set()

            def arrived(outlet: Outlet = outlet, seen: set[int] = seen, wanted: int = wanted) -> bool:
                seen.add(outlet.count(there))
                return wanted in seen

            wait_for(f"{LARGE_ROWS} rows at {outlet.name}", arrived, LARGE_SECONDS, 0.1)
            assert seen <= {0, LARGE_ROWS}, (outlet.name, seen)
        note(f"{LARGE_ROWS} rows of one transaction: everywhere after {time.monotonic() - began:.0f} s")
    for service, count_before in before.items():
        found = stack.inspect(service)
        assert (found["RestartCount"], found["State"]["OOMKilled"]) == (count_before, False), service
    whole(stack)


def test_each_container_in_turn_suffers_every_fault_under_load(stack: Stack, note: Note) -> None:
    """In as many rounds as there are faults: in each, every container suffers one, in an order of the seed's; then all is audited."""
    draw = random.Random(SEED)
    note(f"faults by seed {SEED}")
    services = stack.services
    orders = {service: draw.sample(FAULTS, len(FAULTS)) for service in services}
    for number in range(len(FAULTS)):
        began = time.monotonic()
        took: list[str] = []

        def suffer(number: int = number, took: list[str] = took) -> None:
            for service in draw.sample(services, len(services)):
                fault, start = orders[service][number], time.monotonic()
                fault(stack, service)
                stack.wait_healthy(service)
                took.append(f"{service} {fault.__name__} {time.monotonic() - start:.0f} s")
                print(f"seed {SEED}: {took[-1]}")

        did = under_load(stack, f"{SEED}-{number}", suffer)
        note(f"whole after {time.monotonic() - began:.0f} s: {', '.join(took)}; {did}")


def test_the_hubs_database_is_restarted_by_compose_under_load(stack: Stack, note: Note) -> None:
    note(f"hub-db restarted: {under_load(stack, f'{SEED}-restart', lambda: void(stack.compose('restart', 'hub-db')))}")


def void(_: object) -> None:
    """For what is done for its effect."""


def test_two_containers_at_once_under_load(stack: Stack, note: Note) -> None:
    draw = random.Random(f"{SEED}-two")
    here, there = draw.sample(sorted(stack.outlets), 2)
    pairs = [
        ("hub", f"{there}-applier"),
        ("hub-db", f"{here}-capture"),
        (f"{here}-db", f"{there}-db"),
        (f"{here}-capture", f"{here}-applier"),
        ("hub", "hub-db"),
    ]
    for pair in draw.sample(pairs, len(pairs)):
        faults = draw.choices([killed, killed, paused, cut_off], k=2)
        shown = " and ".join(f"{service} {fault.__name__}" for service, fault in zip(pair, faults, strict=True))
        print(f"seed {SEED}: {shown}")
        errors: list[BaseException] = []

        def suffer(service: str, fault: Callable[[Stack, str], None], errors: list[BaseException] = errors) -> None:
            try:
                fault(stack, service)
            except BaseException as error:
                errors.append(error)

        def both(pair: tuple[str, str] = pair, faults: list[Callable[[Stack, str], None]] = faults) -> None:
            threads = [threading.Thread(target=suffer, args=each) for each in zip(pair, faults, strict=True)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        did = under_load(stack, f"{SEED}-{shown}", both)
        assert not errors, errors
        note(f"{shown}: whole; {did}")
