"""What a service trusts and shows, as its files say now; and when they say nothing, or less than before, what counts then."""

from __future__ import annotations

import errno
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from structlog.testing import capture_logs

from services.kernel import credentials
from services.kernel.certificates import described
from services.kernel.credentials import Credentials, Followed
from services.kernel.errors import TransientError
from services.kernel.revocation import revoked
from services.kernel.wire.session import Side
from tests.unit.certificates import Authority, Certificates


@pytest.fixture
def ours(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path / "pki")


@pytest.fixture
def foreign(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "foreign")


def test_a_list_that_cannot_be_read_any_more_goes_on_counting_and_that_is_told_once(ours: Certificates) -> None:
    mine = ours.issue("ubud")
    ours.authority.revoke("ubud")
    trusting = Credentials(ours.issue("hub", Side.HUB), Side.HUB)
    with capture_logs() as logs:
        trusting.load()
        peer = Credentials(mine, Side.OUTLET).own()
        for content in (None, b"", b"-----BEGIN X509 CRL-----\nhalf"):
            ours.authority.crl.unlink(missing_ok=True)
            if content is not None:
                ours.authority.crl.write_bytes(content)
            for _ in range(3):
                distrusted = trusting.refusal(peer)
                assert distrusted is not None and distrusted.code == "revoked"
    told = [line for line in logs if line["log_level"] == "error"]
    assert len(told) == 3
    assert all("goes on counting" in line["event"] for line in told)


def test_a_file_that_could_not_be_opened_once_is_read_again(ours: Certificates) -> None:
    """Out of descriptors, say, at the very moment of a revocation."""
    calls = []

    def read() -> str:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(errno.EMFILE, "Too many open files")
        return f"read {len(calls)}"

    followed = Followed((ours.authority.ca,), read)
    assert followed.value() == "read 1"
    ours.authority.ca.touch()
    with capture_logs():
        assert [followed.value() for _ in range(3)] == ["read 1", "read 3", "read 3"]


def test_a_list_that_is_cut_off_is_no_list(ours: Certificates, foreign: Authority, tmp_path: Path) -> None:
    mine, other = ours.issue("ubud"), foreign.issue("kuta")
    ours.authority.revoke("ubud")
    both, lists = tmp_path / "both.pem", tmp_path / "both.crl"
    both.write_bytes(mine.ca.read_bytes() + other.ca.read_bytes())
    lists.write_bytes(foreign.revoke(other).read_bytes() + ours.authority.crl.read_bytes()[:-40])
    with pytest.raises(ValueError, match="cut off"):
        revoked(lists, both)


def test_a_revoked_one_is_found_however_its_authoritys_name_is_written(tmp_path: Path) -> None:
    """PrintableString in the list, UTF8String in the certificate: one name."""
    spelled = [
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Warung", kind)])
        for kind in (_ASN1Type.PrintableString, _ASN1Type.UTF8String)
    ]
    assert spelled[0].public_bytes() != spelled[1].public_bytes()
    key, now, day = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC), timedelta(days=1)
    begun = (
        x509.CertificateBuilder().public_key(key.public_key()).not_valid_before(now - day).not_valid_after(now + day)
    )
    ca = begun.serial_number(1).subject_name(spelled[0]).issuer_name(spelled[0]).sign(key, hashes.SHA256())
    leaf = begun.serial_number(7).subject_name(spelled[1]).issuer_name(spelled[1]).sign(key, hashes.SHA256())
    entry = x509.RevokedCertificateBuilder().serial_number(7).revocation_date(now).build()
    list_ = x509.CertificateRevocationListBuilder().issuer_name(spelled[0]).last_update(now).next_update(now + day)
    for file, made in (("ca", ca), ("crl", list_.add_revoked_certificate(entry).sign(key, hashes.SHA256()))):
        (tmp_path / file).write_bytes(made.public_bytes(serialization.Encoding.PEM))
    assert revoked(tmp_path / "crl", tmp_path / "ca").at(described(leaf)) is not None


def test_an_overdue_list_counts_as_it_stands_and_is_told(foreign: Authority) -> None:
    bad, good = foreign.issue("ubud"), foreign.issue("kuta")
    overdue = foreign.revoke(bad, due=timedelta(days=-1))
    trusting = Credentials(foreign.issue("hub")._replace(crl=overdue), Side.HUB)
    with capture_logs() as logs:
        assert trusting.refusal(Credentials(bad, Side.OUTLET).own()) is not None
        assert trusting.refusal(Credentials(good, Side.OUTLET).own()) is None
    assert ["overdue" in line["event"] for line in logs if line["log_level"] == "warning"] == [True]


def test_a_list_of_several_authorities(ours: Certificates, foreign: Authority, tmp_path: Path) -> None:
    mine, other = ours.issue("ubud"), foreign.issue("kuta")
    ours.authority.revoke("ubud")
    both, lists = tmp_path / "both.pem", tmp_path / "both.crl"
    both.write_bytes(mine.ca.read_bytes() + other.ca.read_bytes())
    lists.write_bytes(ours.authority.crl.read_bytes() + foreign.revoke(other).read_bytes())
    trusting = Credentials(ours.issue("hub", Side.HUB)._replace(ca=both, crl=lists), Side.HUB)
    for tls in (mine, other):
        assert trusting.refusal(Credentials(tls, Side.OUTLET).own()) is not None
    assert trusting.refusal(Credentials(foreign.issue("amed"), Side.OUTLET).own()) is None


def test_a_key_that_everybody_may_read_is_told_whenever_it_is_read(ours: Certificates) -> None:
    mine = ours.issue("ubud")
    for mode, told in ((0o600, 0), (0o640, 0), (0o644, 1)):
        mine.key.chmod(mode)
        with capture_logs() as logs:
            trusting = Credentials(mine, Side.OUTLET)
            trusting.load()
            trusting.own()
        assert [line["file"] for line in logs if line["log_level"] == "warning"] == [str(mine.key)] * told, oct(mode)


def test_files_that_were_never_good_are_told(ours: Certificates) -> None:
    mine = ours.issue("ubud")
    mine.key.write_text("no key")
    with pytest.raises(TransientError, match="cannot be used"):
        Credentials(mine, Side.OUTLET).context()


def put(path: Path, content: bytes) -> None:
    """Whole, as an operator should."""
    aside = path.with_name(f"{path.name}.new")
    aside.write_bytes(content)
    aside.replace(path)


def errors_of(logs: list[object]) -> list[str]:
    return [line["why"] for line in logs if line["log_level"] == "error"]  # type: ignore[index]


# ---- lists that would let somebody back in


def test_an_older_list_does_not_count(ours: Certificates) -> None:
    """A copy from before the revocation, put back by oversight."""
    mine, before = ours.issue("ubud"), ours.authority.crl.read_bytes()
    ours.authority.revoke("ubud")
    trusting = Credentials(ours.issue("hub", Side.HUB), Side.HUB)
    trusting.load()
    peer = Credentials(mine, Side.OUTLET).own()
    with capture_logs() as logs:
        put(ours.authority.crl, before)
        assert trusting.refusal(peer) is not None and not trusting.usable
    assert "older than number 2" in errors_of(logs)[0]
    ours.authority.issue("ubud", Side.OUTLET, mine.cert.parent, (), timedelta(days=1), renew=True)
    assert trusting.refusal(Credentials(mine, Side.OUTLET).own()) is None


def test_two_lists_of_one_authority_in_a_file_stay_good_however_often_they_are_read(
    ours: Certificates, tmp_path: Path
) -> None:
    """As where somebody appends each new one."""
    mine, lists = ours.issue("ubud"), tmp_path / "lists.crl"
    first = ours.authority.crl.read_bytes()
    ours.authority.revoke("ubud")
    second = ours.authority.crl.read_bytes()
    for content in (first + second, second + first):
        put(lists, content)
        trusting = Credentials(ours.issue("hub", Side.HUB)._replace(crl=lists), Side.HUB)
        for _ in range(2):
            put(lists, content)
            assert trusting.refusal(Credentials(mine, Side.OUTLET).own()) is not None and trusting.usable


def test_a_list_that_is_gone_goes_on_counting_for_as_long_as_its_authority_is_trusted(
    ours: Certificates, foreign: Authority, tmp_path: Path
) -> None:
    mine, other = ours.issue("ubud"), foreign.issue("kuta")
    both, lists = tmp_path / "both.pem", tmp_path / "both.crl"
    both.write_bytes(mine.ca.read_bytes() + other.ca.read_bytes())
    of_foreign, peer = foreign.revoke(other).read_bytes(), Credentials(other, Side.OUTLET).own()
    lists.write_bytes(ours.authority.crl.read_bytes() + of_foreign)
    trusting = Credentials(ours.issue("hub", Side.HUB)._replace(ca=both, crl=lists), Side.HUB)
    assert trusting.refusal(peer) is not None
    with capture_logs() as logs:
        put(lists, ours.authority.crl.read_bytes())
        assert trusting.refusal(peer) is not None
        assert "still trusted" in errors_of(logs)[0]
        put(both, mine.ca.read_bytes())
        trusting.load()
    assert trusting.usable


# ---- files that are none, and pairs that are wrong


def test_a_pipe_is_not_waited_for_and_what_has_no_end_is_not_read(
    ours: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = ours.issue("ubud")
    ours.authority.revoke("ubud")
    good = ours.authority.crl.read_bytes()
    trusting, peer = Credentials(ours.issue("hub", Side.HUB), Side.HUB), Credentials(mine, Side.OUTLET).own()
    trusting.load()
    with capture_logs() as logs:
        ours.authority.crl.unlink()
        os.mkfifo(ours.authority.crl)
        assert trusting.refusal(peer) is not None
        ours.authority.crl.unlink()
        ours.authority.crl.symlink_to("/dev/zero")
        assert trusting.refusal(peer) is not None
        monkeypatch.setattr(credentials, "MAX_BYTES", len(good) - 1)
        ours.authority.crl.unlink()
        ours.authority.crl.write_bytes(good)
        assert trusting.refusal(peer) is not None
    assert ["no file" in why or "bytes" in why for why in errors_of(logs)] == [True] * len(errors_of(logs))
    assert len(errors_of(logs)) >= 2


@pytest.mark.parametrize("wrong", ["another outlet's", "a hub's", "expired"])
def test_a_pair_that_the_other_end_would_refuse_is_not_taken_up(ours: Certificates, wrong: str) -> None:
    mine = ours.issue("ubud")
    trusting = Credentials(mine, Side.OUTLET)
    shown = trusting.own()
    other = {
        "another outlet's": lambda: ours.issue("kuta"),
        "a hub's": lambda: ours.issue("ubud2", Side.HUB),
        "expired": lambda: ours.issue("ubud3", lifetime=timedelta(seconds=-5)),
    }[wrong]()
    good = mine.cert.read_bytes(), mine.key.read_bytes()
    with capture_logs() as logs:
        put(mine.key, other.key.read_bytes())
        put(mine.cert, other.cert.read_bytes())
        assert trusting.own() == shown and trusting.context() is not None
        assert len(errors_of(logs)) >= 1 and not trusting.usable
        for path, content in zip((mine.cert, mine.key), good, strict=True):
            put(path, content)
        assert trusting.own() == shown and trusting.usable


def test_one_that_is_good_from_tomorrow_on_is_taken_up_tomorrow(ours: Certificates) -> None:
    """Or: that was put there while this machine's clock was behind."""
    clock = [datetime.now(UTC) - timedelta(days=5)]
    mine = ours.issue("ubud", lifetime=timedelta(days=30))
    trusting = Credentials(mine, Side.OUTLET, lambda: clock[0])
    before = trusting.own()
    ours.issue("ubud", lifetime=timedelta(days=60))
    with capture_logs() as logs:
        for _ in range(3):
            assert trusting.own() == before and not trusting.usable
        assert len(errors_of(logs)) == 1
        clock[0] += timedelta(days=5)
        assert trusting.own() != before and trusting.usable


# ---- certificates that say nothing clear


def _signed(
    tmp_path: Path, subject: list[x509.NameAttribute[object]], *extensions: x509.ExtensionType
) -> x509.Certificate:
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(subject))  # type: ignore[arg-type]
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Warung")]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + timedelta(days=1))
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key, hashes.SHA256())


def test_two_common_names_are_none(tmp_path: Path) -> None:
    names = [x509.NameAttribute(NameOID.COMMON_NAME, name) for name in ("ubud", "kuta")]
    with pytest.raises(ValueError, match="2 common names"):
        described(_signed(tmp_path, names))  # type: ignore[arg-type]


def test_one_that_is_good_for_anything_is_good_at_both_ends(tmp_path: Path) -> None:
    usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE])
    assert described(_signed(tmp_path, [], usages)).sides == {*Side}


def test_a_host_is_not_a_common_name(foreign: Authority) -> None:
    """The hub at `localhost` must have a certificate for localhost, and not one whose owner is called so."""
    outlet, hub = (Credentials(foreign.issue("any"), side).context() for side in (Side.OUTLET, Side.HUB))
    assert outlet.check_hostname and not outlet.hostname_checks_common_name
    assert not hub.check_hostname
