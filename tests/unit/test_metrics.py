"""Figures, alerts, dashboards and their documents agree; names keep to the rules; nobody's removed outlet stays on show."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY, CollectorRegistry

from services.applier import metrics as applier
from services.applier.recording import Outcome
from services.capture import metrics as capture
from services.hub import metrics as hub
from services.hub.status import OutletStatus
from services.kernel import metrics as kernel
from services.kernel.change import Op
from services.kernel.expiry import EXPIRY
from services.kernel.wire.messages import Delivery, QuarantineReport, Role

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
RUNBOOK = DEPLOY / "prometheus" / "RUNBOOK.md"
TABLES = DEPLOY / "prometheus" / "METRICS.md"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))

LABELS = {"table", "operation", "outlet", "origin", "role", "rule", "code", "version", "service", "le"}
"""Names of things and of reasons: never what a row holds."""

NAME = re.compile(r"\bsubak_(?:hub|capture|applier|link|build|database|standby|certificate)(?:_[a-z]+)*\b")
NOT_FIGURES = {"subak_hub"}  # a database's name


def families() -> dict[str, Any]:
    found = {}
    for collector in (REGISTRY.collect, kernel.OUTLETS.collect, EXPIRY.describe):
        for family in collector():
            if family.name.startswith("subak_"):
                name = family.name + ("_total" if family.type == "counter" else "")
                found[name] = family
    return found


def labels_of(name: str) -> tuple[str, ...]:
    for registry in (REGISTRY, kernel.OUTLETS):
        collector = registry._names_to_collectors.get(name)
        if collector is not None:
            return tuple(getattr(collector, "_labelnames", ()))
    raise AssertionError(name)


def plain(name: str) -> str:
    """A histogram's series by the name of the whole."""
    return re.sub(r"_(bucket|count|sum)$", "", name)


def used(text: str) -> set[str]:
    return {plain(found) for found in NAME.findall(text)} - NOT_FIGURES


def panels(dashboard: Path) -> Iterator[dict[str, Any]]:
    yield from json.loads(dashboard.read_text("utf-8"))["panels"]


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load(ALERTS.read_text("utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


def listed() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Of METRICS.md: name to type and labels."""
    rows = re.findall(r"^\| `(subak_\w+)` \| (\w+) \|([^|]*)\|", TABLES.read_text("utf-8"), re.MULTILINE)
    assert len(rows) == len({name for name, _, _ in rows}), "listed twice"
    return {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def test_names_keep_to_the_rules() -> None:
    found = families()
    assert len(found) > 40
    for name, family in found.items():
        assert re.fullmatch(r"subak_[a-z]+(_[a-z]+)*", name)
        assert name.endswith("_total") == (family.type == "counter")
        assert not re.search(r"_(milli|micro|kilo|mega|kb|mb|ms|minutes|hours|days|percent)", name), "base units only"
        if family.type == "histogram":
            assert name.endswith("_seconds")
        if re.search(r"age|latency|duration|skew|oldest", name):
            assert name.endswith("_seconds")
        assert set(labels_of(family.name if family.type != "counter" else name)) <= LABELS, name
        assert family.documentation.endswith((".", ".)")) or family.documentation[-1].isalnum()


def test_every_figure_is_listed_as_it_is_and_no_other() -> None:
    found, table = families(), listed()
    assert set(found) == set(table)
    for name, family in found.items():
        assert table[name] == (family.type, labels_of(name)), name


@pytest.mark.parametrize("document", [ALERTS, RUNBOOK, *DASHBOARDS], ids=lambda path: path.name)
def test_only_figures_that_exist_are_asked_for(document: Path) -> None:
    missing = used(document.read_text("utf-8")) - set(listed())
    assert not missing


def test_every_figure_is_on_a_dashboard() -> None:
    shown = set().union(*(used(dashboard.read_text("utf-8")) for dashboard in DASHBOARDS))
    assert set(listed()) - shown == set()


def test_every_alert_says_what_it_is_and_the_runbook_what_to_do() -> None:
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", RUNBOOK.read_text("utf-8"), re.MULTILINE | re.DOTALL))
    assert set(sections) == {rule["alert"] for rule in rules()}
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"] and rule["annotations"]["description"]
        assert rule["annotations"]["runbook"] == f"deploy/prometheus/RUNBOOK.md#{rule['alert'].lower()}"
        section = sections[rule["alert"]].lower()
        assert "**what it means.**" in section and "**look at" in section and "**do" in section, rule["alert"]
        assert "`" in section, f"{rule['alert']}: a command"


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_can_be_read(dashboard: Path) -> None:
    document = json.loads(dashboard.read_text("utf-8"))
    assert document["title"] == {"network": "Subak: network", "outlet": "Subak: one outlet"}[dashboard.stem]
    datasource = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text("utf-8"))
    uid = datasource["datasources"][0]["uid"]
    taken: dict[tuple[int, int], str] = {}
    titles = []
    for panel in panels(dashboard):
        place, title = panel["gridPos"], panel["title"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), title) == title, f"{title} lies over {taken[x, y]}"
        if panel["type"] == "row":
            continue
        titles.append(title)
        assert panel["description"], title
        assert panel["fieldConfig"]["defaults"]["unit"], title
        assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"], title
        assert panel["targets"], title
        assert not re.search(r"subak_|_total|_seconds", title), "plain words"
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == uid
    assert len(titles) == len(set(titles)) and len({panel["id"] for panel in panels(dashboard)}) == len(
        list(panels(dashboard))
    )
    variables = [variable["name"] for variable in document["templating"]["list"]]
    assert variables == (["outlet"] if dashboard.stem == "outlet" else [])


# ---- what they count


def sample(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


def test_a_batch_is_counted_by_table_and_operation_and_by_how_long_it_took() -> None:
    delivery = Delivery(1, 0, "lovina", "e", 1, b"", b"", 3, 2, 70, 1)
    outcome = Outcome(changes=3, made=[1_000_000, 9_000_000])
    outcome.changes_by.update({("sales_here", Op.INSERT): 2, ("stock_here", Op.UPDATE): 1})
    outcome.conflicts_by["stock_here", "delta"] = 1
    outcome.quarantined.append(QuarantineReport(0, "only_here", "Too little."))
    before = {bound: sample("subak_applier_latency_seconds_bucket", le=bound) or 0 for bound in ("0.01", "5.0", "+Inf")}
    applier.applied(delivery, outcome, 0.2, 4_000_000)  # the second was made at a clock that is 5 s ahead
    assert sample("subak_applier_changes_total", table="sales_here", operation="insert") == 2
    assert sample("subak_applier_changes_total", table="stock_here", operation="update") == 1
    assert sample("subak_applier_batches_total", origin="lovina") == 1
    assert sample("subak_applier_bytes_total", origin="lovina") == 70
    assert sample("subak_applier_conflicts_total", table="stock_here", rule="delta") == 1
    assert sample("subak_applier_newly_quarantined_transactions_total", code="only_here") == 1
    after = {bound: sample("subak_applier_latency_seconds_bucket", le=bound) or 0 for bound in before}
    assert {bound: after[bound] - before[bound] for bound in before} == {"0.01": 1, "5.0": 2, "+Inf": 2}
    applier.applied(delivery, Outcome(duplicate=True), 0.2, 4_000_000)
    assert sample("subak_applier_duplicate_batches_total", origin="lovina") == 1
    assert sample("subak_applier_batches_total", origin="lovina") == 1


def outlet(name: str, waiting: int = 0) -> OutletStatus:
    return OutletStatus(name, "", "", True, waiting, 0.0, 0, 0, None, skew_seconds=0.5)


def test_an_outlet_is_on_show_from_the_beginning_until_it_is_removed() -> None:
    hub.outlets([outlet("gone", 3), outlet("stays")])
    assert sample("subak_hub_waiting_deliveries", outlet="gone") == 3
    assert sample("subak_hub_connected", outlet="stays", role="capture") == 0, "one that never came is not connected"
    hub.connected("gone", Role.APPLIER)
    hub.outlets([outlet("stays")])
    hub.disconnected("gone", Role.APPLIER)  # it hears of its removal a moment later
    assert sample("subak_hub_waiting_deliveries", outlet="gone") is None
    hub.outlets([outlet("stays")])
    for family in REGISTRY.collect():
        for one in family.samples:
            assert one.labels.get("outlet") != "gone", one
    assert sample("subak_hub_waiting_deliveries", outlet="stays") == 0


def test_reasons_that_a_peer_makes_up_do_not_make_series_without_end() -> None:
    for number in range(10 * kernel.MAX_CODES):
        kernel.link_failed(f"made up {number}")
    series = [one for family in kernel.LINK_FAILURES.collect() for one in family.samples]
    assert len(series) <= kernel.MAX_CODES + 1
    assert sample("subak_link_failures_total", code="other") is not None


def text_of(registry: CollectorRegistry) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for family in registry.collect():
        for one in family.samples:
            found.setdefault(one.name, []).append(one.labels)
    return found


def test_an_outlets_figures_carry_its_name_and_the_hub_shows_none_of_an_outlets() -> None:
    capture.CHANGES.labels("sales", "insert").inc()
    here = text_of(kernel.figures("capture", "ubud"))
    assert {"table": "sales", "operation": "insert", "outlet": "ubud"} in here["subak_capture_changes_total"]
    assert here["subak_link_connected"] == [{"outlet": "ubud", "service": "capture"}]
    assert {"outlet": "ubud", "service": "capture"} in here["process_resident_memory_bytes"]
    assert not [name for name in here if name.endswith("_created")]
    centre = text_of(kernel.figures("hub", ""))
    assert "subak_link_connected" not in centre
    assert centre["subak_database_up"] == [{"service": "hub"}]
    assert all("service" not in labels for labels in centre["subak_hub_paused"])


def test_one_that_stands_by_shows_what_it_has_counted_and_not_how_things_were() -> None:
    capture.POLLS.inc()
    capture.HELD.set(3)
    assert "subak_capture_held_changes" in text_of(kernel.figures("capture", "ubud"))
    kernel.STANDBY.set(1)
    try:
        here = text_of(kernel.figures("capture", "ubud"))
    finally:
        kernel.STANDBY.set(0)
    assert {"subak_standby", "subak_database_up", "subak_build_info", "subak_capture_polls_total"} <= {*here}
    gauges = {name for name, family in families().items() if family.type == "gauge"}
    assert not [name for name in here if name.startswith("subak_capture_") and name in gauges]
