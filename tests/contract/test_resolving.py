"""One command at one outlet ends a clash of two rows at every outlet: the same rows everywhere, and nothing in quarantine."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from services.applier.resolving import Choice
from services.kernel.control import Policy
from services.kernel.errors import PermanentError
from tests.contract.outlets import MakeOutlet, Outlet, Outlets

MEMBER = (
    "CREATE TABLE member (id VARCHAR(20) NOT NULL PRIMARY KEY, email VARCHAR(40) UNIQUE, name VARCHAR(40),"
    " points INTEGER DEFAULT 0 NOT NULL)",
    "CREATE TABLE visit (id VARCHAR(20) NOT NULL PRIMARY KEY, member VARCHAR(20),"
    " CONSTRAINT visit_member FOREIGN KEY (member) REFERENCES member (id))",
)
GENERATED = {
    "sqlite": "INTEGER PRIMARY KEY",
    "mysql": "INTEGER NOT NULL AUTO_INCREMENT PRIMARY KEY",
    "mariadb": "INTEGER NOT NULL AUTO_INCREMENT PRIMARY KEY",
    "mssql": "INTEGER NOT NULL IDENTITY(1, 1) PRIMARY KEY",
}
TICKETS = (
    "CREATE TABLE ticket (id {generated}, what VARCHAR(40), code VARCHAR(20) UNIQUE)",
    "CREATE TABLE line (id {generated}, ticket INTEGER NOT NULL, n INTEGER,"
    " CONSTRAINT line_ticket FOREIGN KEY (ticket) REFERENCES ticket (id))",
    "CREATE TABLE remark (id VARCHAR(20) NOT NULL PRIMARY KEY, ticket INTEGER NOT NULL,"
    " CONSTRAINT remark_ticket FOREIGN KEY (ticket) REFERENCES ticket (id))",
)
MEMBERS = "SELECT id, email, name, points FROM member"
TICKET = "SELECT id, what, code FROM ticket"

Make = Callable[[], Outlets]


@pytest.fixture
def three(make_outlet: MakeOutlet, engine_name: str) -> Outlets:
    lines = [*MEMBER, *(line.format(generated=GENERATED[engine_name]) for line in TICKETS)]
    return Outlets(*(make_outlet(name, lines) for name in ("amed", "bali", "candi")))


def _one_email(three: Outlets) -> tuple[Outlet, int]:
    """Two members with one address: amed's p, and bali's q with a visit. Where q waits, and as what."""
    amed, bali, _ = three.outlets
    amed.write("INSERT INTO member (id, email, name, points) VALUES ('p', 'same', 'Putu', 1)")
    bali.write(
        "INSERT INTO member (id, email, name, points) VALUES ('q', 'same', 'Made', 2)",
        "INSERT INTO visit (id, member) VALUES ('v', 'q')",
    )
    three.settle()
    assert three.waiting() == [("amed", "unique"), ("bali", "unique"), ("candi", "unique")]
    return amed, amed.applier.waiting()[0].id


def _ended(three: Outlets) -> None:
    three.settle()
    assert three.waiting() == []
    for table in ("member", "visit", "ticket", "line", "remark"):
        three.same(f"SELECT * FROM {table}")


def test_both_rows_are_shown(three: Outlets) -> None:
    amed, number = _one_email(three)
    (clash,) = amed.applier.clashes(number)
    assert clash.columns == ("email",)
    assert (clash.incoming.name.key, clash.holder.key) == ("q", "p")
    assert clash.holder_image["name"] == "Putu"
    assert clash.incoming.image is not None and clash.incoming.image["name"] == "Made"


def test_the_incoming_row_gets_another_value(three: Outlets) -> None:
    amed, number = _one_email(three)
    amed.applier.resolve(number, Choice(values={"email": "other"}))
    _ended(three)
    assert set(three.same(MEMBERS)) == {("p", "same", "Putu", 1), ("q", "other", "Made", 2)}
    assert three.same("SELECT id, member FROM visit") == [("v", "q")]


def test_the_local_row_stays(three: Outlets) -> None:
    """Here bali, whose member is to stay; amed's goes, everywhere."""
    _one_email(three)
    bali = three.outlets[1]
    bali.applier.resolve(bali.applier.waiting()[0].id, Choice(keep="local"))
    _ended(three)
    assert three.same(MEMBERS) == [("q", "same", "Made", 2)]
    assert three.same("SELECT id, member FROM visit") == [("v", "q")]


def test_the_incoming_row_stays(three: Outlets) -> None:
    amed, number = _one_email(three)
    amed.applier.resolve(number, Choice(keep="incoming"))
    _ended(three)
    assert three.same(MEMBERS) == [("q", "same", "Made", 2)]


def test_a_row_with_children_is_not_deleted(three: Outlets) -> None:
    amed, number = _one_email(three)
    amed.write("INSERT INTO visit (id, member) VALUES ('w', 'p')")
    with pytest.raises(PermanentError, match="refer"):
        amed.applier.resolve(number, Choice(keep="incoming"))
    with pytest.raises(PermanentError, match="refer"):
        amed.applier.resolve(number, Choice(keep="local"))  # its own visit came with it
    assert amed.read("SELECT id, member FROM visit") == [("w", "p")]
    assert [entry.id for entry in amed.applier.waiting()] == [number]


def test_later_changes_of_the_incoming_row_are_not_lost(three: Outlets) -> None:
    amed, number = _one_email(three)
    three.outlets[1].write("UPDATE member SET points = 9 WHERE id = 'q'")
    three.settle()
    assert len(amed.applier.waiting()) == 2
    amed.applier.resolve(number, Choice(values={"email": "other"}))
    _ended(three)
    assert ("q", "other", "Made", 9) in three.same(MEMBERS)


def test_sums_count_each_contribution_once(three: Outlets) -> None:
    for outlet in three.outlets:
        outlet.hear(Policy(1, '[tables.member]\ndelta = ["points"]'), 1)
    three.sequence = 1
    amed, number = _one_email(three)
    amed.applier.resolve(number, Choice(values={"email": "other"}))
    _ended(three)
    three.outlets[2].write("UPDATE member SET points = points + 5 WHERE id = 'q'")
    three.outlets[1].write("UPDATE member SET points = points + 7 WHERE id = 'q'")
    _ended(three)
    assert set(three.same(MEMBERS)) == {("p", "same", "Putu", 1), ("q", "other", "Made", 14)}


def test_what_does_not_fit_the_clash_is_refused(three: Outlets) -> None:
    amed, number = _one_email(three)
    for choice in (
        Choice(),
        Choice(new_keys=("7",)),
        Choice(keep="local", values={"email": "x"}),
        Choice(values={"colour": "red"}),
        Choice(values={"id": "r"}),
    ):
        with pytest.raises(PermanentError) as caught:
            amed.applier.resolve(number, choice)
        assert caught.value.code == "resolve"
    with pytest.raises(PermanentError, match="unique"):
        amed.applier.resolve(number, Choice(values={"name": "Wayan"}))
    assert len(amed.applier.waiting()) == 1


@pytest.mark.parametrize("engine_name", ["sqlite", "mariadb", "mysql"])
def test_a_unique_value_of_a_table_with_generated_keys(three: Outlets) -> None:
    amed, bali, candi = three.outlets
    amed.write("INSERT INTO ticket (id, what, code) VALUES (11, 'amed', 'same')")
    bali.write("INSERT INTO ticket (id, what, code) VALUES (12, 'bali', 'same')")
    three.settle()
    assert {code for _, code in three.waiting()} == {"unique"}
    candi.applier.resolve(candi.applier.waiting()[0].id, Choice(values={"code": "other"}))
    _ended(three)
    assert sorted(row[1] for row in three.same(TICKET)) == ["amed", "bali"]


def test_one_key_and_one_unique_value_for_two_rows(three: Outlets) -> None:
    amed, bali, _ = three.outlets
    for outlet in (amed, bali):
        outlet.write(f"INSERT INTO ticket (what, code) VALUES ('{outlet.name}', 'same')")
    three.settle()
    number = amed.applier.waiting()[0].id
    with pytest.raises(PermanentError, match="unique"):
        amed.applier.resolve(number, Choice(new_keys=("70",)))
    amed.applier.resolve(number, Choice(values={"code": "other"}, new_keys=("70",)))
    _ended(three)
    assert set(three.same(TICKET)) == {(1, "amed", "same"), (70, "bali", "other")}


def _one_key(three: Outlets) -> None:
    """Two tickets 1: amed's, and bali's, which has a remark and was changed since."""
    amed, bali, _ = three.outlets
    amed.write("INSERT INTO ticket (what, code) VALUES ('amed', 'a')")
    bali.write(
        "INSERT INTO ticket (what, code) VALUES ('bali', 'b')",
        "INSERT INTO remark (id, ticket) VALUES ('r', 1)",
    )
    three.settle()
    bali.write("UPDATE ticket SET what = 'bali again'")
    three.settle()
    assert set(three.waiting()) == {(outlet.name, "generated_key") for outlet in three.outlets}


@pytest.mark.parametrize("where", ["amed", "candi"])
def test_the_incoming_row_gets_another_key(three: Outlets, where: str) -> None:
    """At the outlet that made the row which stays, or at a third one."""
    _one_key(three)
    outlet = next(one for one in three.outlets if one.name == where)
    number = outlet.applier.waiting()[0].id
    (clash,) = outlet.applier.clashes(number)
    assert (clash.columns, clash.holder_image["what"]) == (("id",), "amed")
    outlet.applier.resolve(number, Choice(new_keys=("70",)))
    _ended(three)
    assert set(three.same(TICKET)) == {(1, "amed", "a"), (70, "bali again", "b")}
    assert three.same("SELECT id, ticket FROM remark") == [("r", 70)]
    # Both go on as rows like any other.
    three.outlets[1].write(
        "UPDATE ticket SET what = 'one' WHERE id = 1", "UPDATE ticket SET what = 'two' WHERE id = 70"
    )
    _ended(three)
    assert set(three.same(TICKET)) == {(1, "one", "a"), (70, "two", "b")}


def test_several_rows_that_clash_get_a_key_each(three: Outlets) -> None:
    amed, bali, candi = three.outlets
    for outlet in (amed, bali):
        outlet.write(
            f"INSERT INTO ticket (what, code) VALUES ('{outlet.name}', '{outlet.name}')",
            "INSERT INTO line (ticket, n) VALUES (1, 5)",
        )
    three.settle()
    number = candi.applier.waiting()[0].id
    with pytest.raises(PermanentError, match="ticket:1"):
        candi.applier.resolve(number, Choice(new_keys=("70",)))
    candi.applier.resolve(number, Choice(new_keys=("ticket:1=70", "line:1=80")))
    _ended(three)
    kept = candi.read("SELECT what FROM ticket WHERE id = 1")
    assert {row[0] for row in three.same("SELECT what FROM ticket")} == {"amed", "bali"} and kept
    assert set(three.same("SELECT id, ticket, n FROM line")) == {(1, 1, 5), (80, 70, 5)}


def test_three_rows_under_one_key(three: Outlets) -> None:
    """Each that is put aside is resolved; none is lost on the way."""
    for outlet in three.outlets:
        outlet.write(f"INSERT INTO ticket (what, code) VALUES ('{outlet.name}', '{outlet.name}')")
    three.settle()
    amed = three.outlets[0]
    for key in ("70", "80"):
        amed.applier.resolve(amed.applier.waiting()[0].id, Choice(new_keys=(key,)))
    _ended(three)
    assert sorted(row[1] for row in three.same(TICKET)) == ["amed", "bali", "candi"]


def test_a_key_that_is_taken_is_refused(three: Outlets) -> None:
    _one_key(three)
    amed = three.outlets[0]
    number = amed.applier.waiting()[0].id
    for key in ("1", "x"):
        with pytest.raises(PermanentError):
            amed.applier.resolve(number, Choice(new_keys=(key,)))
    assert amed.read(TICKET) == [(1, "amed", "a")]


def test_what_was_discarded_here_follows_a_decision_made_elsewhere(three: Outlets) -> None:
    """Candi has given up one of two tickets under one key; then amed, whose ticket candi has, gives that one another key."""
    amed, bali, candi = three.outlets
    amed.write("INSERT INTO ticket (id, what) VALUES (5, 'A')")
    bali.write("INSERT INTO ticket (id, what) VALUES (5, 'B')")
    three.settle()
    candi.applier.discard(candi.applier.waiting()[0].id)
    amed.applier.resolve(amed.applier.waiting()[0].id, Choice(new_keys=("6",)))
    _ended(three)
    assert set(three.same("SELECT id, what FROM ticket")) == {(5, "A"), (6, "B")}


def test_what_an_operator_writes_is_of_the_columns_type(three: Outlets) -> None:
    """Also on SQLite, which would keep anything, and send it to outlets that do not."""
    amed, bali, _ = three.outlets
    amed.write("INSERT INTO ticket (id, what, code) VALUES (5, 'A', 'x')")
    bali.write("INSERT INTO ticket (id, what, code) VALUES (5, 'B', 'x')")
    three.settle()
    (entry,) = amed.applier.waiting()
    for keys in (("six",), ("6", "7")):
        with pytest.raises(PermanentError):
            amed.applier.resolve(entry.id, Choice(new_keys=keys, values={"code": "y"}))
    assert [one.id for one in amed.applier.waiting()] == [entry.id]


def test_a_number_is_given_as_one(three: Outlets) -> None:
    amed, number = _one_email(three)
    with pytest.raises(PermanentError, match="points"):
        amed.applier.resolve(number, Choice(values={"email": "other", "points": "many"}))
    assert [one.id for one in amed.applier.waiting()] == [number]
