"""Settings: every fault at once, with what to set; no password in any message."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.kernel.settings import (
    Address,
    HubDatabaseSettings,
    HubSettings,
    OutletDatabaseSettings,
    OutletSettings,
    Settings,
    SettingsError,
    load,
)
from services.kernel.tls import TlsSettings
from services.kernel.wire.session import Side
from tests.unit.certificates import Authority, Certificates

HUB = {"SUBAK_HUB_LISTEN": "127.0.0.1:7707", "SUBAK_HUB_DATABASE_URL": "sqlite:////var/hub.db", "SUBAK_TLS": "off"}
OUTLET = {
    "SUBAK_OUTLET": "ubud-1",
    "SUBAK_HUB": "localhost:7707",
    "SUBAK_DATABASE_URL": "mysql+pymysql://app:geheim@db:3306/shop",
    "SUBAK_TLS": "off",
}


def faults(kind: type[Settings], environ: dict[str, str]) -> dict[str, str]:
    """By variable, what is wrong and what to set."""
    with pytest.raises(SettingsError) as wrong:
        load(kind, environ)
    assert "geheim" not in str(wrong.value)
    assert all(fault.todo for fault in wrong.value.faults)
    return {fault.variable: f"{fault.what} {fault.todo}" for fault in wrong.value.faults}


def test_what_the_hub_is_given() -> None:
    settings = load(HubSettings, HUB)
    assert (settings.listen, settings.enrol, settings.tls) == (Address("127.0.0.1", 7707), False, None)
    assert settings.database_url.drivername == "sqlite+pysqlite"
    more = load(HubSettings, {**HUB, "SUBAK_HUB_ENROL": "open", "SUBAK_METRICS_LISTEN": "[::1]:0", "SUBAK_OUTLET": "a"})
    assert (more.enrol, more.metrics_listen) == (True, Address("::1", 0))


def test_what_an_outlet_is_given() -> None:
    settings = load(OutletSettings, OUTLET)
    assert (settings.outlet, settings.hub, settings.tables) == ("ubud-1", Address("localhost", 7707), ("*",))
    assert settings.database_url.password == "geheim"
    assert "geheim" not in repr(settings)
    assert load(OutletSettings, {**OUTLET, "SUBAK_TABLES": "sale*, product"}).tables == ("sale*", "product")
    assert load(OutletSettings, {**OUTLET, "SUBAK_DATABASE_URL": "mariadb://u@h/d"}).database_url.drivername == (
        "mariadb+pymysql"
    )


def test_how_far_ahead_a_clock_may_be() -> None:
    assert load(OutletSettings, OUTLET).clock_limit == load(OutletDatabaseSettings, OUTLET).clock_limit == 5.0
    assert load(OutletSettings, {**OUTLET, "SUBAK_CLOCK_LIMIT": "0.5"}).clock_limit == 0.5
    for wrong in ("0", "-1", "inf", "nan", "soon"):
        assert set(faults(OutletSettings, {**OUTLET, "SUBAK_CLOCK_LIMIT": wrong})) == {"SUBAK_CLOCK_LIMIT"}


def test_sql_server_is_for_outlets_only() -> None:
    url = "mssql+pyodbc://u:secret@h/d"
    assert load(OutletSettings, {**OUTLET, "SUBAK_DATABASE_URL": url}).database_url.get_backend_name() == "mssql"
    with pytest.raises(SettingsError, match=r"SUBAK_HUB_DATABASE_URL.*is for outlets") as caught:
        load(HubDatabaseSettings, {"SUBAK_HUB_DATABASE_URL": url})
    assert "secret" not in str(caught.value)


def test_commands_need_a_database_only() -> None:
    assert load(HubDatabaseSettings, {"SUBAK_HUB_DATABASE_URL": "sqlite:////x.db"}).database_url.database == "/x.db"
    assert load(OutletDatabaseSettings, {"SUBAK_DATABASE_URL": "sqlite:////x.db"}).outlet is None


def test_all_that_is_missing_is_told_at_once() -> None:
    assert set(faults(HubSettings, {})) == {
        "SUBAK_HUB_LISTEN",
        "SUBAK_HUB_DATABASE_URL",
        "SUBAK_TLS_CA",
        "SUBAK_TLS_CERT",
        "SUBAK_TLS_KEY",
    }
    assert set(faults(OutletSettings, {"SUBAK_TLS": "off", "SUBAK_OUTLET": " "})) == {
        "SUBAK_OUTLET",
        "SUBAK_HUB",
        "SUBAK_DATABASE_URL",
    }


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SUBAK_HUB", "nowhere"),
        ("SUBAK_HUB", "127.0.0.1:0"),
        ("SUBAK_HUB", "host:70000"),
        ("SUBAK_HUB", "user:x@host:1"),
        ("SUBAK_HUB", ":7707"),
        ("SUBAK_OUTLET", "a b"),
        ("SUBAK_OUTLET", "x" * 65),
        ("SUBAK_OUTLET", "_hub"),
        ("SUBAK_DATABASE_URL", "geheim"),
        ("SUBAK_DATABASE_URL", "postgresql://app:geheim@db/shop"),
        ("SUBAK_DATABASE_URL", "mysql+mysqldb://app:geheim@db/shop"),
        ("SUBAK_DATABASE_URL", "mysql+pymysql://app:geheim@db"),
        ("SUBAK_DATABASE_URL", "mysql+pymysql://app:geheim@db:port/shop"),
        ("SUBAK_DATABASE_URL", "sqlite://"),
        ("SUBAK_TABLES", " , "),
        ("SUBAK_METRICS_LISTEN", "9100"),
        ("SUBAK_TLS", "on"),
    ],
)
def test_a_wrong_value_is_one_fault_of_its_variable(variable: str, value: str) -> None:
    assert set(faults(OutletSettings, {**OUTLET, variable: value})) == {variable}


def test_a_wrong_enrolment_and_policy_file() -> None:
    wrong = faults(HubSettings, {**HUB, "SUBAK_HUB_ENROL": "maybe", "SUBAK_POLICY_FILE": "/no/such/file"})
    assert set(wrong) == {"SUBAK_HUB_ENROL", "SUBAK_POLICY_FILE"}


def test_how_long_the_hub_keeps_things() -> None:
    settings = load(HubSettings, HUB)
    assert (settings.keep_days, settings.offline_days, settings.offline_bytes) == (7.0, 30.0, 10 * 1024**3)
    some = {"SUBAK_KEEP_DAYS": "0.5", "SUBAK_OFFLINE_DAYS": "1", "SUBAK_OFFLINE_BYTES": "5e9"}
    settings = load(HubSettings, {**HUB, **some})
    assert (settings.keep_days, settings.offline_days, settings.offline_bytes) == (0.5, 1.0, 5_000_000_000)
    for variable in some:
        for value in ("-1", "nan", "inf", "a week"):
            assert set(faults(HubSettings, {**HUB, variable: value})) == {variable}


def test_a_policy_file_is_read_when_the_settings_are(tmp_path: Path) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text('[tables.stock]\ndelta = ["on_hand"]\n')
    assert load(HubSettings, {**HUB, "SUBAK_POLICY_FILE": str(policy)}).policy_file == policy
    policy.write_text("[tables.stock]\ncolour = 1\nminimum = { on_hand = 0 }\n")
    wrong = faults(HubSettings, {**HUB, "SUBAK_POLICY_FILE": str(policy)})
    assert "tables.stock.colour" in wrong["SUBAK_POLICY_FILE"]
    policy.write_bytes(b"\xff\xfe")
    assert "UTF-8" in faults(HubSettings, {**HUB, "SUBAK_POLICY_FILE": str(policy)})["SUBAK_POLICY_FILE"]


def test_a_misspelt_variable_is_told_with_what_was_meant() -> None:
    wrong = faults(HubSettings, {**HUB, "SUBAK_HUB_LISTN": "x", "SUBAK_TLS_CERTIFICATE": "x", "SUBAK_ZZZ": "x"})
    assert "SUBAK_HUB_LISTEN?" in wrong["SUBAK_HUB_LISTN"]
    assert (
        "SUBAK_TLS_CERT?" in wrong["SUBAK_TLS_CERTIFICATE"] or "SUBAK_TLS_CERT_FILE?" in wrong["SUBAK_TLS_CERTIFICATE"]
    )
    assert "Take it out" in wrong["SUBAK_ZZZ"]
    load(HubSettings, {**HUB, **OUTLET, "SUBAK_FAILPOINT": "hub.x", "SUBAK_TEST_SEED": "1", "HOME": "/"})


# ---- NAME_FILE


def test_a_value_may_stand_in_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text("mysql+pymysql://app:geheim@db/shop\n")
    environ = {**OUTLET, "SUBAK_DATABASE_URL": "", "SUBAK_DATABASE_URL_FILE": str(secret)}
    assert load(OutletSettings, environ).database_url.password == "geheim"
    assert set(faults(OutletSettings, {**environ, "SUBAK_DATABASE_URL": "sqlite:////x.db"})) == {"SUBAK_DATABASE_URL"}


def test_a_file_that_cannot_give_a_value_is_a_fault(tmp_path: Path) -> None:
    def told(path: Path) -> set[str]:
        return set(faults(OutletSettings, {**OUTLET, "SUBAK_OUTLET": "", "SUBAK_OUTLET_FILE": str(path)}))

    (tmp_path / "empty").write_text("\n")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    (tmp_path / "long").write_text("x" * 65)
    assert told(tmp_path / "none") == told(tmp_path / "empty") == told(tmp_path / "bytes") == {"SUBAK_OUTLET_FILE"}
    assert told(tmp_path / "long") == {"SUBAK_OUTLET"}


# ---- TLS


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "[::]", "hub.example.com", "localhost.example.com"])
def test_tls_may_be_off_on_this_machine_only(host: str) -> None:
    assert set(faults(HubSettings, {**HUB, "SUBAK_HUB_LISTEN": f"{host}:1"})) == {"SUBAK_TLS"}
    assert set(faults(OutletSettings, {**OUTLET, "SUBAK_HUB": f"{host}:1"})) == {"SUBAK_TLS"}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "[::1]", "localhost"])
def test_every_loopback_address_is_this_machine(host: str) -> None:
    assert load(HubSettings, {**HUB, "SUBAK_HUB_LISTEN": f"{host}:1"}).tls is None


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    tls = Authority(tmp_path_factory.mktemp("tls")).issue("ubud-1")
    return {"SUBAK_TLS_CA": str(tls.ca), "SUBAK_TLS_CERT": str(tls.cert), "SUBAK_TLS_KEY": str(tls.key)}


def secured(environ: dict[str, str], certificates: dict[str, str]) -> dict[str, str]:
    return {**environ, **certificates, "SUBAK_TLS": ""}


def test_certificates_that_fit_are_taken(certificates: dict[str, str]) -> None:
    settings = load(OutletSettings, secured({**OUTLET, "SUBAK_HUB": "hub.example.com:7707"}, certificates))
    assert settings.tls is not None
    assert str(settings.tls.key) == certificates["SUBAK_TLS_KEY"]
    assert set(faults(OutletSettings, {**secured(OUTLET, certificates), "SUBAK_TLS": "off"})) == {"SUBAK_TLS"}


def test_certificates_that_do_not_fit_are_told_by_file(certificates: dict[str, str], tmp_path: Path) -> None:
    def told(**changed: object) -> set[str]:
        changes = {f"SUBAK_TLS_{name.upper()}": str(path) for name, path in changed.items()}
        return set(faults(OutletSettings, secured(OUTLET, certificates) | changes))

    rubbish = tmp_path / "rubbish"
    rubbish.write_text("no certificate")
    other = Authority(tmp_path).issue("kuta")
    assert told(ca=rubbish) == {"SUBAK_TLS_CA"}
    assert told(cert=rubbish) == {"SUBAK_TLS_KEY"}
    assert told(key=other.key) == {"SUBAK_TLS_KEY"}
    assert told(key=Authority(tmp_path).issue("sanur", password=b"x").key) == {"SUBAK_TLS_KEY"}
    assert told(ca=tmp_path / "none", key=tmp_path / "none") == {"SUBAK_TLS_CA", "SUBAK_TLS_KEY"}
    assert set(faults(OutletSettings, {**secured(OUTLET, certificates), "SUBAK_TLS_CA": ""})) == {"SUBAK_TLS_CA"}
    expired = Authority(tmp_path, "old").issue("ubud-1", days=-1)
    assert told(ca=expired.ca, cert=expired.cert, key=expired.key) == {"SUBAK_TLS_CERT"}
    assert told(ca=other.ca, cert=other.cert, key=other.key) == {"SUBAK_TLS_CERT"}  # kuta's
    itself = {**secured(OUTLET, certificates), "SUBAK_TLS_CA": "", "SUBAK_TLS_CA_FILE": certificates["SUBAK_TLS_CA"]}
    assert "Set SUBAK_TLS_CA to its path" in faults(OutletSettings, itself)["SUBAK_TLS_CA_FILE"]


def test_a_certificate_is_for_one_end_and_the_list_of_revoked_ones_must_be_there(tmp_path: Path) -> None:
    ours, foreign = Certificates(tmp_path / "pki"), Authority(tmp_path)

    def given(tls: TlsSettings) -> dict[str, str]:
        names = {f"SUBAK_TLS_{name.upper()}": str(path) for name, path in tls._asdict().items()}
        return {**names, "SUBAK_TLS": ""}

    ubud, hub = ours.issue("ubud-1"), ours.issue("hub", Side.HUB)
    assert load(OutletSettings, {**OUTLET, **given(ubud)}).tls == ubud
    assert load(HubSettings, {**HUB, **given(hub), "SUBAK_OUTLET": "ubud-1"}).tls == hub
    assert "not made for a hub" in faults(HubSettings, {**HUB, **given(ubud)})["SUBAK_TLS_CERT"]
    assert "subak pki issue ubud-1" in faults(OutletSettings, {**OUTLET, **given(hub)})["SUBAK_TLS_CERT"]
    rubbish = tmp_path / "rubbish"
    rubbish.write_text("no list")
    for wrong in (rubbish, tmp_path / "none", ubud.ca, foreign.revoke()):
        assert set(faults(OutletSettings, {**OUTLET, **given(ubud._replace(crl=wrong))})) == {"SUBAK_TLS_CRL"}
    assert set(faults(HubSettings, {**HUB, "SUBAK_TLS_CRL": str(rubbish)})) == {"SUBAK_TLS"}


def test_a_service_prints_the_faults_and_exits_with_2() -> None:
    code = "from services.kernel.settings import *; load_or_exit(OutletSettings)"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SUBAK_")}
    result = subprocess.run([sys.executable, "-c", code], env=inherited, capture_output=True, text=True, timeout=30)
    assert result.returncode == 2
    assert result.stderr.count("\n  SUBAK_") == 6
    assert "Traceback" not in result.stderr
