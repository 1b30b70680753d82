"""What the jobs of the compose network make: certificates, passwords, URLs; once. And the folder of an outlet elsewhere."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from sqlalchemy import make_url

from services.cli import databases
from services.cli.databases import hub_to_change
from services.cli.demo.company import found
from services.cli.demo.till import KEYS_PER_TILL
from services.cli.joining import folder
from services.cli.setup import command
from services.cli.setup.engines import Product, grants, sample, statements
from services.cli.setup.secret_files import password, put
from services.cli.shop import PatientTill, number_of
from services.hub import administration
from services.kernel.dialects import Purpose, dialect_for
from services.kernel.errors import PermanentError, TransientError
from services.kernel.probe import probe


@pytest.fixture
def pki(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SUBAK_PKI", str(tmp_path / "pki"))
    for name in ("tls", "secrets", "admin", "shop", "hub"):
        (tmp_path / name).mkdir()
    command.hub(["hub", ""], tmp_path / "hub", tmp_path / "secrets", tmp_path / "admin")
    return tmp_path


def _contents(top: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in top.rglob("*") if path.is_file()}


def test_the_hubs_password_is_made_once(pki: Path) -> None:
    before = _contents(pki)
    url = make_url((pki / "secrets/url").read_text().strip())
    assert (url.host, url.username, url.database) == ("hub-db", "subak", "subak_hub")
    assert url.password == (pki / "secrets/password").read_text().strip() != (pki / "admin/root").read_text().strip()
    command.hub(["hub", ""], pki / "hub", pki / "secrets", pki / "admin")
    assert _contents(pki) == before


@pytest.mark.parametrize("engine", Product)
def test_an_outlet_is_set_up_once(pki: Path, engine: Product) -> None:
    def set_up() -> None:
        command.outlet("kuta", engine, "kuta-db", pki / "tls", pki / "secrets", pki / "admin", pki / "shop", "Y")

    set_up()
    before = _contents(pki)
    url, application = (
        make_url((pki / "secrets/url").read_text().strip()),
        make_url((pki / "shop/kuta").read_text().strip()),
    )
    assert (url.username, application.username) == ("subak", "shop")
    assert {url.host, application.host} == {"kuta-db"}
    assert url.password != application.password
    assert (pki / "tls/key.pem").stat().st_mode & 0o777 == 0o600
    set_up()
    assert _contents(pki) == before


@pytest.mark.parametrize("engine", [Product.MYSQL, Product.MARIADB])
def test_a_database_that_is_not_reached_is_said(tmp_path: Path, engine: Product) -> None:
    with pytest.raises(TransientError) as error:
        command.database("kuta", engine, "nowhere.invalid", tmp_path)
    assert error.value.code == "connection" and "nowhere.invalid" in error.value.what


def test_no_two_passwords_are_alike_and_each_is_strong(tmp_path: Path) -> None:
    made = {password(tmp_path / str(number)) for number in range(50)}
    assert len(made) == 50
    for one in made:
        assert (
            len(one) >= 32
            and one.isalnum()
            and {True}
            == {
                any(map(str.isupper, one)),
                any(map(str.islower, one)),
                any(map(str.isdigit, one)),
            }
        )


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="cannot be read or written") as raised:
        password(tmp_path / "nowhere" / "root")
    assert raised.value.code == "setup_file"


@pytest.mark.parametrize("engine", Product)
def test_the_accounts_statements(engine: Product) -> None:
    for script in (grants(engine, "shop", "Geheim1"), sample(engine, "Geheim1")):
        one_by_one = statements(script)
        assert len(one_by_one) >= 3
        assert not any(statement.startswith("--") or ";" in statement or "{{" in statement for statement in one_by_one)
        assert sum("Geheim1" in statement for statement in one_by_one) == 1


def test_the_folder_of_an_outlet_elsewhere(pki: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    folder.write("kuta", Product.MYSQL, "hub.example.com:7707", "toko", str(pki / "site"))
    there = {str(path.relative_to(pki / "site")) for path in (pki / "site").rglob("*") if path.is_file()}
    assert there == {
        "compose.yml",
        "README.md",
        "outlet.env",
        "database-url",
        "grants.sql",
        "tls/ca.pem",
        "tls/cert.pem",
        "tls/key.pem",
    }
    for secret in folder.SECRETS:
        assert (pki / "site" / secret).stat().st_mode & 0o777 == 0o600
    url = make_url((pki / "site/database-url").read_text().strip())
    account = (pki / "site/grants.sql").read_text()
    assert url.password and f"IDENTIFIED BY '{url.password}'" in account
    assert url.database == "toko" and "ON `toko`.*" in account
    public = there - folder.SECRETS
    assert not any(url.password in (pki / "site" / path).read_text() for path in public)
    with pytest.raises(PermanentError, match="something in it"):
        folder.write("kuta", Product.MYSQL, "hub.example.com:7707", "toko", str(pki / "site"))
    capsysbinary.readouterr()
    folder.write("kuta", Product.MYSQL, "hub.example.com:7707", "toko", "-")
    with tarfile.open(fileobj=io.BytesIO(capsysbinary.readouterr().out)) as tar:
        assert {f"kuta/{path}" for path in there} == set(tar.getnames())
        modes = {path: tar.getmember(f"kuta/{path}").mode for path in there}
        assert modes == {path: 0o600 if path in folder.SECRETS else 0o644 for path in there}
        again = tar.extractfile("kuta/database-url")
        assert again and make_url(again.read().decode().strip()).password != url.password
    with pytest.raises(PermanentError, match="database's name"):
        folder.write("kuta", Product.MYSQL, "hub.example.com:7707", "toko`; --", str(pki / "other"))
    assert not (pki / "other").exists()


def test_outlets_are_introduced_once_and_numbered_as_they_came(tmp_path: Path) -> None:
    with hub_to_change(make_url(f"sqlite:///{tmp_path / 'hub.db'}")) as engine:
        assert administration.introduce(engine, ["ubud", "amed"]) == ["ubud", "amed"]
        administration.remove(engine, "ubud")
        assert administration.introduce(engine, ["ubud", "amed", "kuta"]) == ["kuta"]
        assert [administration.number(engine, name) for name in ("ubud", "amed", "kuta")] == [1, 2, 3]
        assert [outlet.name for outlet in administration.listed(engine)] == ["amed", "kuta"]
        with pytest.raises(PermanentError) as raised:
            administration.number(engine, "nobody")
        assert raised.value.code == "outlet_unknown"


def test_a_number_is_an_outlets_for_ever(tmp_path: Path) -> None:
    """Two databases with one auto_increment_offset make the same keys."""
    with hub_to_change(make_url(f"sqlite:///{tmp_path / 'hub.db'}")) as engine:
        administration.introduce(engine, ["ubud", "kuta", "lovina"])
        administration.remove(engine, "kuta")
        administration.add(engine, "amed")
        administration.add(engine, "kuta")
        numbers = {name: administration.number(engine, name) for name in ("ubud", "kuta", "lovina", "amed")}
    assert numbers == {"ubud": 1, "kuta": 2, "lovina": 3, "amed": 4}


@pytest.mark.parametrize("name", ["hub", "..", ".", "_hub", "a b", ""])
def test_a_name_that_is_none_is_refused_wherever_it_is_given(pki: Path, name: str) -> None:
    with hub_to_change(make_url(f"sqlite:///{pki / 'hub.db'}")) as engine:
        with pytest.raises(PermanentError) as raised:
            administration.add(engine, name)
        assert raised.value.code == "outlet_name"
    with pytest.raises(PermanentError) as raised:
        command.outlet(name, Product.MYSQL, "db", pki / "tls", pki / "secrets", pki / "admin", pki / "shop")
    assert raised.value.code == "outlet_name"


def test_a_company_is_founded_once(tmp_path: Path) -> None:
    url = make_url(f"sqlite:///{tmp_path / 'shop.db'}")
    found(url, ("ubud",), ())
    found(url, ("ubud",), ("products", "stock", "customers", "sales", "sale_lines"))
    engine = dialect_for(url).engine(url, Purpose.READ)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT COUNT(*) FROM products").scalar() == 16
    engine.dispose()


class _Watched(PatientTill):
    def _refused(self, error: Exception) -> None:
        raise error  # ends this till's thread


def test_a_till_that_is_switched_on_again_gives_no_number_twice(tmp_path: Path) -> None:
    url = make_url(f"sqlite:///{tmp_path / 'shop.db'}")
    found(url, ("ubud",), ())
    sold = 0
    for _ in range(2):
        closing = threading.Event()
        till = _Watched(url, "ubud", number_of("ubud"), 0.001, closing)
        till.start()
        while till.transactions < 60 and till.is_alive():
            closing.wait(0.005)
        closing.set()
        till.join()
        sold += till.transactions
    engine = dialect_for(url).engine(url, Purpose.READ)
    with engine.connect() as connection:
        receipts, customers = (
            connection.exec_driver_sql(f"SELECT COUNT(*) FROM {table}").scalar() for table in ("sales", "customers")
        )
    engine.dispose()
    assert sold >= 120 and receipts and customers and receipts > 50 and customers > 8


def test_the_shop_sells_at_an_outlet_that_is_switched_on_later(tmp_path: Path) -> None:
    folder = tmp_path / "shops"
    folder.mkdir()
    url = make_url(f"sqlite:///{tmp_path / 'shop.db'}")
    found(url, ("ubud",), ())
    command_line = [sys.executable, "-m", "services.cli", "shop", str(folder), "--pause", "0.01"]
    with subprocess.Popen(command_line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout
            put(folder / "ubud", str(url))
            while '"selling"' not in process.stdout.readline():
                assert process.poll() is None
        finally:
            process.terminate()
        assert process.wait(20) == 0


@pytest.mark.parametrize("accepted", ["", "y", "yes"])
def test_who_has_not_accepted_microsofts_licence_is_told_before_anything_starts(pki: Path, accepted: str) -> None:
    folders = (pki / "tls", pki / "secrets", pki / "admin", pki / "shop")
    with pytest.raises(PermanentError, match="licences") as raised:
        command.outlet("kuta", Product.MSSQL, "kuta-db", *folders, accepted)
    assert "ACCEPT_EULA=Y" in raised.value.todo and not any((pki / "shop").iterdir())
    command.outlet("kuta", Product.MSSQL, "kuta-db", *folders, "Y")


@pytest.mark.parametrize(
    "text", ["mysql+pymysql://u:p@ss:Geheim1/x@h:33x/shop", "Geheim1", "oracle://u:Geheim1@h/d", ""]
)
def test_what_is_no_url_is_said_and_not_shown(text: str) -> None:
    with pytest.raises(PermanentError) as raised:
        databases.parsed(text)
    said = f"{raised.value.what} {raised.value.todo} {raised.value.__cause__ or ''}"
    assert raised.value.code in ("url", "engine") and "Geheim1" not in said


def test_the_sample_shops_numbers_do_not_meet() -> None:
    numbers = [number_of(shop) for shop in command.SHOPS]
    assert len(set(numbers)) == len(numbers)
    assert (max(numbers) + 2) * KEYS_PER_TILL < 2**31


class _Answer(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(b"well\n")

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


def test_a_health_check_says_what_the_service_says() -> None:
    with HTTPServer(("127.0.0.1", 0), _Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for status, ready in ((200, True), (503, False)):
            _Answer.status = status
            assert probe(f"0.0.0.0:{server.server_port}") == (ready, "well")
        server.shutdown()
    good, said = probe(f"127.0.0.1:{server.server_port}")
    assert not good and "does not answer" in said


def test_the_hub_and_the_command_need_no_odbc() -> None:
    code = "import sys; sys.modules['pyodbc'] = None; import services.hub.__main__, services.cli.__main__"
    asked = (
        f"{code}\nfrom services.kernel.dialects import dialect_for\n"
        "try: dialect_for('mssql+pyodbc://h/d')\nexcept Exception as error: print(error.code)"
    )
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "driver"


def test_a_machine_without_unixodbc_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    why = "libodbc.so.2: cannot open shared object file: No such file or directory"
    (tmp_path / "pyodbc.py").write_text(f"raise ImportError({why!r})")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pyodbc")
    with pytest.raises(PermanentError) as told:
        dialect_for("mssql+pyodbc://h/d")
    assert told.value.code == "driver" and why in told.value.what and "unixodbc" in told.value.todo
