"""Prometheus as the profile `observability` has it: it finds every service by itself, and what it is asked it answers."""

from __future__ import annotations

from collections.abc import Callable

from tests.stack.compose import SERVICES, Stack
from tests.stack.network import wait_for
from tests.stack.prometheus import Prometheus

FOUND_SECONDS = 120.0
"""It looks for targets twice a minute and asks each four times a minute."""

CAPTURED = "sum by (outlet) (subak_capture_stored_changes_total)"

RARE = "SubakConflictsUnusual"

Note = Callable[[str], None]


def test_it_sees_every_service_and_every_alert_is_in_order(stack: Stack, note: Note) -> None:
    stack.compose("--profile", "observability", "up", "--detach", "--wait", "--no-deps", "prometheus")
    prometheus = Prometheus(stack.prometheus_port)
    try:
        wanted = 1 + len(SERVICES[1:]) * len(stack.profiles)
        wait_for(
            f"{wanted} targets to be up", lambda: len(prometheus.query("up == 1")) == wanted, FOUND_SECONDS, pause=1.0
        )
        for key, here in enumerate(stack.outlets.values(), 930_000_000):
            here.execute(f"INSERT INTO customers (id, name, points) VALUES ({key}, 'Nyoman', 0)")
        wait_for(
            "each outlet's changes to be counted",
            lambda: {row["metric"]["outlet"] for row in prometheus.query(f"{CAPTURED} > 0")} == {*stack.profiles},
            FOUND_SECONDS,
            pause=1.0,
        )
        rules = prometheus.rules()
        # Those of the group that looks every five minutes may not have been looked at yet.
        assert all(rule["health"] == "ok" or (rule["health"], rule["name"]) == ("unknown", RARE) for rule in rules), (
            rules
        )
        assert len(rules) > 10
        note(f"Prometheus: {wanted} targets up, {len(rules)} alert rules in order")
    finally:
        stack.compose("--profile", "observability", "rm", "--force", "--stop", "prometheus")
    stack.settle()
