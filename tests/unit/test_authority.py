"""The authority: what it makes is what it says, what is there is not written over, and no crash leaves a half."""

from __future__ import annotations

import multiprocessing
import os
import stat
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from services.cli.__main__ import main
from services.kernel import pem_files
from services.kernel.authority import Authority
from services.kernel.errors import PermanentError
from services.kernel.issuing import hosts_of
from services.kernel.pem_files import key_in
from services.kernel.tls import TlsSettings, check_tls
from services.kernel.wire.session import Side
from tests.stack.command import parsed
from tests.stack.network import wait_for

YEAR = timedelta(days=365)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path / "pki")
    assert made.init("Warung", 10 * YEAR)
    return made


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def revoked(authority: Authority) -> set[int]:
    return {entry.serial_number for entry in x509.load_pem_x509_crl(authority.crl.read_bytes())}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def code(work: object, *arguments: object, **named: object) -> str:
    assert callable(work)
    with pytest.raises(PermanentError) as error:
        work(*arguments, **named)
    assert error.value.todo
    return error.value.code


# ---- what is made


def test_what_it_makes_says_who_and_where(authority: Authority, tmp_path: Path) -> None:
    out = tmp_path / "tls"
    assert authority.issue("ubud", Side.OUTLET, out, (), YEAR).new
    made, ca = read(out / "cert.pem"), read(authority.ca)
    made.verify_directly_issued_by(ca)
    assert [str(it.value) for it in made.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["ubud"]
    assert [str(it.value) for it in made.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)] == ["outlet"]
    usages = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert (out / "ca.pem").read_bytes() == authority.ca.read_bytes()
    assert abs(made.not_valid_after_utc - datetime.now(UTC) - YEAR) < timedelta(minutes=1)
    assert made.not_valid_before_utc < datetime.now(UTC) - timedelta(hours=1)  # clocks may be behind
    tls = TlsSettings(out / "ca.pem", out / "cert.pem", out / "key.pem", authority.crl)
    assert check_tls(tls, Side.OUTLET, "ubud", datetime.now(UTC)) == []
    assert [fault.file for fault in check_tls(tls, Side.HUB, None, datetime.now(UTC))] == ["cert"]


def test_a_hubs_is_good_for_its_hosts_and_this_machine(authority: Authority, tmp_path: Path) -> None:
    authority.issue("hub", Side.HUB, tmp_path / "hub", ("hub.example.com", "10.0.0.7", "fd00::1"), YEAR)
    made = read(tmp_path / "hub" / "cert.pem")
    assert hosts_of(made) == {"hub.example.com", "10.0.0.7", "fd00::1", "localhost", "127.0.0.1"}
    assert list(made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.SERVER_AUTH
    ]
    assert code(authority.issue, "hub", Side.HUB, tmp_path / "x", ("a b",), YEAR) == "pki_host"


def test_none_ends_after_its_authority(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    authority.init("Warung", timedelta(days=40))
    authority.issue("ubud", Side.OUTLET, tmp_path / "tls", (), YEAR)
    assert read(tmp_path / "tls" / "cert.pem").not_valid_after_utc == read(authority.ca).not_valid_after_utc


def test_secrets_are_nobody_elses_from_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: dict[str, int] = {}
    really = os.open

    def watched(path: str | Path, flags: int, permissions: int = 0o777) -> int:
        descriptor = really(path, flags, permissions)
        if flags & os.O_CREAT:
            opened[Path(path).name.split(".")[1]] = stat.S_IMODE(os.fstat(descriptor).st_mode)
        return descriptor

    monkeypatch.setattr(pem_files.os, "open", watched)
    before = os.umask(0)
    try:
        authority = Authority(tmp_path / "pki")
        authority.init("Warung", YEAR)
        authority.issue("ubud", Side.OUTLET, tmp_path / "tls", (), YEAR)
    finally:
        os.umask(before)
    assert opened["ca"] == opened["key"] == 0o600
    assert mode(authority.key) == mode(tmp_path / "tls" / "key.pem") == 0o600
    assert mode(authority.private) == mode(tmp_path / "tls") == 0o700
    assert mode(authority.ca) == mode(authority.crl) == mode(tmp_path / "tls" / "cert.pem") == 0o644


# ---- what is there stays


def test_a_second_init_writes_over_nothing(authority: Authority) -> None:
    before = {path: path.read_bytes() for path in (authority.ca, authority.crl, authority.key)}
    assert not authority.init("Another", YEAR)
    assert {path: path.read_bytes() for path in before} == before


def test_a_good_certificate_stays_until_it_is_time(authority: Authority, tmp_path: Path) -> None:
    out = tmp_path / "tls"
    first = authority.issue("ubud", Side.OUTLET, out, (), YEAR)
    again = authority.issue("ubud", Side.OUTLET, out, (), YEAR)
    assert (again.new, again.certificate) == (False, first.certificate)
    assert authority.issue("ubud", Side.OUTLET, out, (), timedelta(days=29), renew=True).new
    assert authority.issue("ubud", Side.OUTLET, out, (), YEAR).new  # ends within 30 days
    assert not authority.issue("ubud", Side.OUTLET, out, (), YEAR).new
    hub = tmp_path / "hub"
    authority.issue("hub", Side.HUB, hub, ("one",), YEAR)
    assert not authority.issue("hub", Side.HUB, hub, ("one",), YEAR).new
    assert authority.issue("hub", Side.HUB, hub, ("one", "two"), YEAR).new


def test_a_renewal_keeps_the_hosts_that_outlets_dial(authority: Authority, tmp_path: Path) -> None:
    """`subak pki issue hub --hub`, as the log asks for it, or a start that lacks a setting, must not shut every outlet out."""
    hub = tmp_path / "hub"
    authority.issue("hub", Side.HUB, hub, ("hub.example.com",), timedelta(days=29))
    assert authority.issue("hub", Side.HUB, hub, ("10.0.0.7",), YEAR).new
    assert {"hub.example.com", "10.0.0.7"} <= hosts_of(read(hub / "cert.pem"))
    assert authority.issue("hub", Side.HUB, hub, (), YEAR, renew=True).new
    assert {"hub.example.com", "10.0.0.7"} <= hosts_of(read(hub / "cert.pem"))
    authority.revoke("hub")
    assert authority.issue("hub", Side.HUB, hub, ("new.example.com",), YEAR).new
    assert "hub.example.com" not in hosts_of(read(hub / "cert.pem"))


def test_one_that_was_made_while_the_clock_was_ahead_is_not_good(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "tls"

    class Ahead(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return datetime.now(tz) + timedelta(days=200)

    with monkeypatch.context() as patch:
        patch.setattr("services.kernel.issuing.datetime", Ahead)
        early = authority.issue("ubud", Side.OUTLET, out, (), YEAR)
    assert early.certificate.starts > datetime.now(UTC)
    assert [one.state(datetime.now(UTC)) for one in authority.listed()] == ["not yet valid"]
    assert authority.issue("ubud", Side.OUTLET, out, (), YEAR).new
    assert read(out / "cert.pem").not_valid_before_utc <= datetime.now(UTC)


def test_a_renewal_keeps_the_key_and_a_revocation_does_not(authority: Authority, tmp_path: Path) -> None:
    out = tmp_path / "tls"
    authority.issue("ubud", Side.OUTLET, out, (), YEAR)
    key = (out / "key.pem").read_bytes()
    authority.issue("ubud", Side.OUTLET, out, (), YEAR, renew=True)
    assert (out / "key.pem").read_bytes() == key
    authority.revoke("ubud")
    assert authority.issue("ubud", Side.OUTLET, out, (), YEAR).new
    assert (out / "key.pem").read_bytes() != key
    assert read(out / "cert.pem").serial_number not in revoked(authority)


def test_a_key_that_was_revoked_is_not_certified_again(authority: Authority, tmp_path: Path) -> None:
    """Whoever made the certificate anew by removing it only would give the thief's key back its rights."""
    folder = tmp_path / "ubud"
    authority.issue("ubud", Side.OUTLET, folder, (), YEAR)
    stolen = key_in(folder / "key.pem").public_key()
    authority.revoke("ubud")
    (folder / "cert.pem").unlink()
    authority.issue("ubud", Side.OUTLET, folder, (), YEAR)
    assert key_in(folder / "key.pem").public_key() != stolen


def test_one_that_the_authority_does_not_remember_is_revoked_by_its_file(authority: Authority, tmp_path: Path) -> None:
    """As after its folder was put back from a backup that is older."""
    folder = tmp_path / "ubud"
    authority.issue("ubud", Side.OUTLET, folder, (), YEAR)
    (remembered,) = authority.issued.glob("*.pem")
    remembered.unlink()
    with pytest.raises(PermanentError, match="has issued no certificate to ubud"):
        authority.revoke("ubud")
    for name in ("kuta", "ubud"):
        if name == "kuta":
            with pytest.raises(PermanentError) as raised:
                authority.revoke(name, folder / "cert.pem")
            assert raised.value.code == "pki_unknown"
        else:
            assert [one.certificate.name for one in authority.revoke(name, folder / "cert.pem")] == ["ubud"]
    assert authority.listed()[0].revoked_at is not None
    foreign = Authority(tmp_path / "foreign")
    foreign.init("Foreign", YEAR)
    with pytest.raises(PermanentError, match="no certificate that this authority has issued"):
        foreign.revoke("ubud", folder / "cert.pem")


def test_a_file_that_is_no_certificate_is_named(authority: Authority, tmp_path: Path) -> None:
    authority.issue("ubud", Side.OUTLET, tmp_path / "ubud", (), YEAR)
    (authority.issued / "0a.pem").write_text("")
    with pytest.raises(PermanentError, match=r"0a\.pem"):
        authority.listed()


def test_while_one_authority_follows_another_both_stay_trusted(authority: Authority, tmp_path: Path) -> None:
    folder, other = tmp_path / "ubud", Authority(tmp_path / "next")
    other.init("Next", YEAR)
    authority.issue("ubud", Side.OUTLET, folder, (), YEAR)
    both = authority.ca.read_bytes() + other.ca.read_bytes()
    (folder / "ca.pem").write_bytes(both)
    for renew in (False, True):
        authority.issue("ubud", Side.OUTLET, folder, (), YEAR, renew)
        assert (folder / "ca.pem").read_bytes() == both
    (folder / "ca.pem").write_bytes(other.ca.read_bytes())
    authority.issue("ubud", Side.OUTLET, folder, (), YEAR)
    assert (folder / "ca.pem").read_bytes() == authority.ca.read_bytes()


@pytest.mark.parametrize(
    "host", ["a,b", "ex..ample", "-", "*", ".a", "a.", "a" * 64, "a b", "", "*.example.com", "hub:7707"]
)
def test_what_is_no_host_is_refused(authority: Authority, tmp_path: Path, host: str) -> None:
    with pytest.raises(PermanentError) as raised:
        authority.issue("hub", Side.HUB, tmp_path / "hub", (host,), YEAR)
    assert raised.value.code == "pki_host"


def test_a_folder_of_somebody_else_is_not_written_to(authority: Authority, tmp_path: Path) -> None:
    out = tmp_path / "tls"
    authority.issue("ubud", Side.OUTLET, out, (), YEAR)
    before = (out / "cert.pem").read_bytes()
    assert code(authority.issue, "kuta", Side.OUTLET, out, (), YEAR) == "pki_taken"
    assert code(authority.issue, "ubud", Side.HUB, out, (), YEAR) == "pki_taken"
    assert (out / "cert.pem").read_bytes() == before


def test_a_certificate_of_a_former_authority_is_replaced(authority: Authority, tmp_path: Path) -> None:
    former, out = Authority(tmp_path / "former"), tmp_path / "tls"
    former.init("Warung", YEAR)
    former.issue("ubud", Side.OUTLET, out, (), YEAR)
    assert authority.issue("ubud", Side.OUTLET, out, (), YEAR).new
    read(out / "cert.pem").verify_directly_issued_by(read(authority.ca))
    assert (out / "ca.pem").read_bytes() == authority.ca.read_bytes()


# ---- revoked


def test_every_certificate_of_a_name_is_revoked(authority: Authority, tmp_path: Path) -> None:
    serials = set()
    for folder in "abc":
        authority.issue("ubud", Side.OUTLET, tmp_path / folder, (), YEAR)
        serials.add(read(tmp_path / folder / "cert.pem").serial_number)
    authority.issue("kuta", Side.OUTLET, tmp_path / "kuta", (), YEAR)
    assert {one.certificate.serial for one in authority.revoke("ubud")} == serials == revoked(authority)
    assert authority.revoke("ubud") == []
    authority.revoke("kuta")
    assert len(revoked(authority)) == 4
    assert code(authority.revoke, "nobody") == "pki_unknown"
    states = {(one.certificate.name, one.state(datetime.now(UTC))) for one in authority.listed()}
    assert states == {("ubud", "revoked"), ("kuta", "revoked")}
    due = x509.load_pem_x509_crl(authority.crl.read_bytes()).next_update_utc
    assert due == read(authority.ca).not_valid_after_utc


def _issue(folder: Path, number: int) -> None:
    authority = Authority(folder / "pki")
    authority.issue(f"outlet{number}", Side.OUTLET, folder / str(number), (), YEAR)
    authority.revoke(f"outlet{number}")


def test_several_processes_at_once_lose_nothing(authority: Authority, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    working = [context.Process(target=_issue, args=(tmp_path, number)) for number in range(4)]
    for process in working:
        process.start()
    for process in working:
        process.join(60)
        assert process.exitcode == 0
    assert len(revoked(authority)) == 4


# ---- crashes, and files that are wrong


class _CrashError(BaseException):
    pass


@pytest.fixture
def crashing(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The n-th rename does not happen any more: the process is gone. 0: none crashes."""
    left = [0]
    really = Path.rename

    def rename(self: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] == 0:
            raise _CrashError
        return really(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    yield left
    left[0] = 0


def test_an_interrupted_beginning_is_gone_on_with(tmp_path: Path, crashing: list[int]) -> None:
    for number in (1, 2, 3, 4):
        authority = Authority(tmp_path / str(number))
        crashing[0] = number
        with pytest.raises(_CrashError):
            authority.init("Warung", YEAR)
        assert not authority.key.exists()  # so that nobody can have been given a certificate of it
        assert authority.init("Warung", YEAR)
        assert not authority.init("Warung", YEAR)
        assert authority.issue("ubud", Side.OUTLET, tmp_path / f"{number}-tls", (), YEAR).new


@pytest.mark.parametrize("number", [1, 2, 3, 4])
@pytest.mark.parametrize("before", ["nothing", "good", "revoked"])
def test_an_interrupted_issue_leaves_a_pair_that_fits_or_none(
    before: str, number: int, authority: Authority, tmp_path: Path, crashing: list[int]
) -> None:
    out = tmp_path / "tls"
    if before != "nothing":
        authority.issue("ubud", Side.OUTLET, out, (), YEAR)
    if before == "revoked":
        authority.revoke("ubud")
    crashing[0] = number
    try:
        authority.issue("ubud", Side.OUTLET, out, (), YEAR, renew=True)
    except _CrashError:
        pass
    else:
        assert number == 4 and before != "nothing"  # ca.pem is there already
    crashing[0] = 0
    if before == "good":
        assert key_in(out / "key.pem").public_key() == read(out / "cert.pem").public_key()
    authority.issue("ubud", Side.OUTLET, out, (), YEAR)
    tls = TlsSettings(out / "ca.pem", out / "cert.pem", out / "key.pem", authority.crl)
    assert check_tls(tls, Side.OUTLET, "ubud", datetime.now(UTC)) == []
    assert read(out / "cert.pem").serial_number not in revoked(authority)


def test_what_is_missing_or_wrong_is_told(authority: Authority, tmp_path: Path) -> None:
    nowhere = Authority(tmp_path / "nowhere")
    assert code(nowhere.issue, "ubud", Side.OUTLET, tmp_path / "tls", (), YEAR) == "pki_missing"
    assert code(nowhere.listed) == code(nowhere.revoke, "ubud") == "pki_missing"
    authority.issue("ubud", Side.OUTLET, tmp_path / "tls", (), YEAR)
    list_, key = authority.crl.read_bytes(), authority.key.read_bytes()
    authority.crl.unlink()
    assert code(authority.revoke, "ubud") == code(authority.init, "x", YEAR) == "pki_incomplete"
    ca = authority.ca.read_bytes()
    authority.ca.unlink()  # a new one of the same key, with an empty list, would let back in whoever was revoked
    assert code(authority.init, "x", YEAR) == "pki_incomplete"
    authority.ca.write_bytes(ca)
    authority.crl.write_bytes(b"rubbish")
    assert code(authority.revoke, "ubud") == "pki_file"
    authority.crl.write_bytes(list_)
    authority.key.unlink()
    assert code(authority.init, "x", YEAR) == "pki_incomplete"
    assert len(authority.listed()) == 1  # needs no key
    other = Authority(tmp_path / "other")
    other.init("Warung", YEAR)
    authority.key.write_bytes(other.key.read_bytes())
    assert code(authority.revoke, "ubud") == "pki_incomplete"
    authority.key.write_bytes(key)
    (tmp_path / "file").write_text("x")
    assert code(authority.issue, "kuta", Side.OUTLET, tmp_path / "file" / "tls", (), YEAR) == "pki_file"
    (tmp_path / "tls" / "cert.pem").write_text("half a certi")
    assert code(authority.issue, "ubud", Side.OUTLET, tmp_path / "tls", (), YEAR) == "pki_file"


def test_an_authority_that_has_expired_signs_nothing(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    authority.init("Warung", timedelta(seconds=1.5))
    ends = read(authority.ca).not_valid_after_utc
    wait_for("the authority has expired", lambda: datetime.now(UTC) > ends, 10.0)
    assert code(authority.issue, "ubud", Side.OUTLET, tmp_path / "tls", (), YEAR) == "pki_expired"


# ---- the command


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`subak ...` with its exit code, as typed, but within this process: a new one takes a second each time."""
    monkeypatch.setenv("SUBAK_PKI", str(tmp_path / "pki"))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["subak", *arguments])
        with pytest.raises(SystemExit) as ended:
            sys.exit(main())
        shown = capsys.readouterr()
        assert ended.value.code == code, (arguments, shown)
        return shown.out

    return run


def test_the_command(tmp_path: Path, typed: Callable[..., str]) -> None:
    assert "pki init" not in typed("pki", "init")
    assert "there already" in typed("pki", "init")
    out = str(tmp_path / "tls")
    assert "is made" in typed("pki", "issue", "ubud", "--out", out)
    assert "there already" in typed("pki", "issue", "ubud", "--out", out)
    typed("pki", "issue", "hub", "--hub", "--host", "hub.example.com", "--host", "10.0.0.7")
    assert (tmp_path / "pki" / "private" / "hub" / "key.pem").exists()
    for wrong in (["hub"], ["a b"], ["_hub"], [".."], ["kuta", "--host", "x"], ["kuta", "--days", "0"]):
        typed("pki", "issue", *wrong, code=2)
    assert "revoked" in typed("pki", "revoke", "ubud")
    assert "revoked already" in typed("pki", "revoke", "ubud")
    typed("pki", "revoke", "nobody", code=2)
    listed = parsed(typed("pki", "list", "--json"))
    assert [(it["name"], it["for"], it["state"]) for it in listed] == [
        ("hub", "hub", "valid"),
        ("ubud", "outlet", "revoked"),
    ]
    assert "revoked on" in typed("pki", "list")
    assert "The authority itself ends" not in typed("pki", "list")
    typed("pki", "list", "--dir", str(tmp_path / "nowhere"), code=2)
    short = ("--dir", str(tmp_path / "short"))
    typed("pki", "init", "--days", "90", *short)
    assert "The authority itself ends" in typed("pki", "issue", "ubud", *short)
