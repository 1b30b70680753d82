"""The policy file: refused when wrong, given to all at one place in the stream, and what came of it shown for the whole network."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.conftest import MakeNetwork
from tests.stack.audit import audit
from tests.stack.command import at, at_hub, parsed
from tests.stack.network import Network, wait_for

SCHEMA = """\
CREATE TABLE stock (
    sku VARCHAR(20) NOT NULL PRIMARY KEY,
    on_hand INT NOT NULL,
    price INT NOT NULL,
    note VARCHAR(40)
);
CREATE TABLE loose (
    sku VARCHAR(20) NOT NULL PRIMARY KEY,
    on_hand INT
);
"""
SKUS = ("arak", "brem", "tuak")
ROWS = [f"INSERT INTO stock VALUES ('{sku}', 100, 10, NULL)" for sku in SKUS]
BY_COLUMN = '[tables.stock]\nrule = "column"\ndelta = ["on_hand"]\n'
BY_ROW = BY_COLUMN.replace("column", "row", 1)
MIX = {"ubud": "mariadb", "kuta": "mysql", "lovina": "sqlite"}
MSSQL = {"ubud": "mssql", "kuta": "mariadb", "lovina": "sqlite"}
SEED = random.randrange(10**6)


@pytest.fixture
def policy(scratch_path: Path) -> Path:
    path = scratch_path / "policy.toml"
    path.write_text(BY_COLUMN)
    return path


def _network(make_network: MakeNetwork, policy: Path, mix: dict[str, str] = MIX) -> Network:
    return make_network(mix, SCHEMA, ROWS, environment={"SUBAK_POLICY_FILE": str(policy)})


def _rules(network: Network, outlet: str) -> int:
    """How many generations the outlet has taken up."""
    return network.outlets[outlet].count("SELECT COUNT(*) FROM subak_policy")


@pytest.mark.parametrize("mix", [MIX, MSSQL], ids=["mixed", "mssql"])
def test_two_outlets_change_one_row_and_nothing_is_lost(
    make_network: MakeNetwork, policy: Path, mix: dict[str, str]
) -> None:
    network = _network(make_network, policy, mix)
    ubud, kuta, lovina = network.outlets.values()
    with network.apart():
        ubud.execute("UPDATE stock SET on_hand = on_hand - 3, price = 12 WHERE sku = 'arak'")
        kuta.execute("UPDATE stock SET on_hand = on_hand - 4 WHERE sku = 'arak'")
        lovina.execute("UPDATE stock SET note = 'fresh' WHERE sku = 'arak'")
    network.settle()
    for outlet in network.outlets.values():
        assert outlet.count("SELECT COUNT(*) FROM stock WHERE on_hand = 93 AND price = 12 AND note = 'fresh'") == 1
    found = parsed(at_hub(network, "conflicts", "--json"))
    assert {(one["table"], one["key"], one["rule"], one["winner"]) for one in found} <= {
        ("stock", "arak", "column", "both"),
        ("stock", "arak", "delta", "both"),
    }
    assert {one["outlet"] for one in found} == set(mix)
    assert all({one["local"]["origin"], one["incoming"]["origin"]} <= {*mix, ""} for one in found)
    assert parsed(at(network, "ubud", "conflicts", "--json"))


@pytest.mark.timeout(240)
def test_rules_change_while_everybody_writes(make_network: MakeNetwork, policy: Path) -> None:
    """Whoever writes under the old ones, and whoever under the new ones: all decide each change alike."""
    print(f"seed {SEED}")
    choose = random.Random(SEED)
    network = _network(make_network, policy)
    network.settle()
    before = {name: _rules(network, name) for name in network.outlets}
    sold = dict.fromkeys(SKUS, 0)
    for change, rules in enumerate((BY_ROW, BY_COLUMN, BY_ROW, BY_COLUMN), start=1):
        with network.apart():  # nobody knows what the others write
            _write(network, choose, sold)
        policy.write_text(f"# {change}\n{rules}")
        network.restart("hub", wait=False)
        _write(network, choose, sold)
        network.wait_ready("hub")
        network.nudge()
        for _ in range(3):
            _write(network, choose, sold)
        for name in network.outlets:
            wanted = before[name] + change
            wait_for(f"new rules at {name}", lambda name=name, wanted=wanted: _rules(network, name) == wanted, 30)  # type: ignore[misc]
    network.nudge()
    network.settle(90)
    found = audit(network.urls)
    assert found.identical, f"seed {SEED}: {found}"
    for outlet in network.outlets.values():
        for sku, amount in sold.items():
            assert outlet.count("SELECT on_hand FROM stock WHERE sku = :sku", sku=sku) == 100 - amount, f"seed {SEED}"


def _write(network: Network, choose: random.Random, sold: dict[str, int]) -> None:
    for outlet in network.outlets.values():
        for _ in range(choose.randrange(1, 4)):
            sku, number = choose.choice(SKUS), choose.randrange(1000)
            claims = choose.choice(
                ["", f", price = {number}", f", note = 'n{number}'", f", price = {number}, note = 'b'"]
            )
            outlet.execute(f"UPDATE stock SET on_hand = on_hand - 1{claims} WHERE sku = '{sku}'")
            sold[sku] += 1


def test_where_the_rules_do_not_fit_the_outlet_says_so_and_holds_that_table_only(
    make_network: MakeNetwork, policy: Path
) -> None:
    policy.write_text(BY_COLUMN + '[tables.loose]\ndelta = ["on_hand"]\n')
    network = _network(make_network, policy)
    ubud, kuta, _ = network.outlets.values()
    ubud.execute("INSERT INTO loose VALUES ('arak', 1)")
    network.settle()  # MariaDB's transactions have no names: two at once in one session would be held as one
    ubud.execute("UPDATE stock SET on_hand = 1 WHERE sku = 'brem'")
    network.settle()
    assert kuta.count("SELECT on_hand FROM stock WHERE sku = 'brem'") == 1
    assert kuta.count("SELECT COUNT(*) FROM subak_quarantine WHERE Code = 'policy' AND State = 'waiting'") == 1

    def told() -> bool:
        outlets = parsed(at_hub(network, "status", "--json"))["outlets"]
        return all(any("loose.on_hand may be NULL" in why for why in one["misfits"]) for one in outlets)

    wait_for("the misfit in `subak status`", told, 30, pause=1.0)
    policy.write_text(BY_COLUMN)
    network.restart("hub")
    network.nudge()
    wait_for("what was held", lambda: kuta.count("SELECT COUNT(*) FROM loose WHERE on_hand = 1") == 1, 60)
    network.settle()
    assert audit(network.urls).identical


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[tables.stock]\nrule = 'newest'\ndelta = 3\n", ("tables.stock.rule", "tables.stock.delta")),
        ("[tables.stock]\ndeltas = ['on_hand']\n", ("tables.stock.deltas",)),
        ("[tables.stock]\nminimum = { on_hand = 0 }\n", ("on_hand is not among the delta columns",)),
        ("[tables\n", ("not TOML",)),
        ("[tables.stock]\n[tables.STOCK]\n", ("same table",)),
    ],
)
def test_a_wrong_file_is_refused_with_every_fault(
    make_network: MakeNetwork, policy: Path, text: str, said: tuple[str, ...]
) -> None:
    policy.write_text(text)
    network = make_network({"ubud": "sqlite"}, SCHEMA, environment={"SUBAK_POLICY_FILE": str(policy)}, start=False)
    network.start("hub", wait=False)
    hub = network.processes["hub"]
    assert hub.running is not None
    assert hub.running.wait(30) == 2
    for words in ("SUBAK_POLICY_FILE", *said):
        assert words in hub.tail()
