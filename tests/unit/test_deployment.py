"""The compose files, the images' recipe and the lock files, as they stand: what they promise, without Docker."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from services.cli.joining import rendering
from services.cli.setup.command import SHOPS
from services.cli.setup.engines import Product
from services.kernel.errors import PermanentError
from services.kernel.settings import VARIABLES
from tests.unit.compose_files import ROOT, load, outlet_of, services

COMPOSE = load(ROOT / "docker-compose.yml")
ALL = services(COMPOSE)
SITE = services(load(ROOT / "deploy/outlet/compose.yml"))
PORTS = load(ROOT / "deploy/ports.yml")["services"]
OURS = {name: service for name, service in (*ALL.items(), *SITE.items()) if service["image"].startswith("subak/")}
ENGINES = {
    "denpasar": Product.MSSQL,
    "jakarta": Product.MSSQL,
    "surabaya": Product.MYSQL,
    "makassar": Product.MARIADB,
}
LASTING = {name: service for name, service in ALL.items() if service.get("restart") != "no"}
DONE, HEALTHY = "service_completed_successfully", "service_healthy"
TEXTS = [
    (ROOT / name).read_text("utf-8")
    for name in ("docker-compose.yml", "deploy/services.yml", "deploy/ports.yml", "deploy/outlet/compose.yml")
]
README = (ROOT / "README.md").read_text("utf-8")


def test_ours_may_do_nothing_but_their_work() -> None:
    assert len(OURS) > 20
    for name, service in OURS.items():
        assert service["read_only"] is True, name
        assert service["user"] in ("10001:10001", "${SUBAK_UID:-10001}:${SUBAK_GID:-10001}"), name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "mem_limit" in service, name


def test_whatever_lasts_is_looked_after() -> None:
    assert {"hub", "hub-db", "surabaya-capture", "makassar-applier", "prometheus", "shop"} <= LASTING.keys()
    for name, service in {**LASTING, **SITE}.items():
        assert service["restart"] == "unless-stopped", name
        assert service["healthcheck"]["test"], name
        assert service["logging"]["options"]["max-size"], name


def test_who_waits_waits_for_a_state() -> None:
    """One that ends is waited for to end, one that lasts to be well; and somebody waits for each job, or `up --wait` takes its end for a fault."""
    for name, service in ALL.items():
        for other, how in service.get("depends_on", {}).items():
            wanted = DONE if other not in LASTING else HEALTHY
            assert how["condition"] == wanted, f"{name} for {other}"
    awaited = {other for service in ALL.values() for other in service.get("depends_on", {})}
    assert ALL.keys() - LASTING.keys() - awaited == {"cli", "test"}
    assert not any("sleep" in text for text in TEXTS)


def test_nothing_is_published_to_others() -> None:
    published = {name: service["ports"] for name, service in ALL.items() if "ports" in service}
    assert published.keys() == {"hub", "prometheus", "grafana"}
    assert published.pop("hub") == ["${SUBAK_BIND:-127.0.0.1}:${SUBAK_PORT:-7707}:7707"]
    every = [port for service in (*SITE.values(), *PORTS.values()) for port in service["ports"]]
    for port in (*every, *(port for ports in published.values() for port in ports)):
        assert re.fullmatch(r"127\.0\.0\.1:\$\{[A-Z_]+_PORT:-\d+\}:\d+", port), port


def test_the_ports_for_the_curious_are_all_there() -> None:
    wanted = {name for name in ALL if re.fullmatch(r"(\w+-(db|capture|applier))|hub", name)}
    assert PORTS.keys() == wanted


@pytest.mark.parametrize("name", ENGINES)
def test_an_outlet_is_what_the_command_writes(name: str) -> None:
    """So the four are alike but for their engine, and so is the next one."""
    number = SHOPS.index(name) + 1
    written = yaml.safe_load(rendering.compose(name, ENGINES[name], number))
    for service in ("shop", "test"):
        assert written["services"].pop(service) == {"networks": [name]}
    assert written["services"] == {one: COMPOSE["services"][one] for one in outlet_of(name, ALL)}
    assert written["networks"].keys() <= COMPOSE["networks"].keys()
    assert written["volumes"].keys() <= COMPOSE["volumes"].keys()


def test_no_outlet_of_ones_own_takes_the_place_of_what_is_there() -> None:
    profiles = {profile for service in ALL.values() for profile in service.get("profiles", [])}
    beginnings = {name.rpartition("-")[0] for name in ALL if "-" in name}
    assert profiles | beginnings | COMPOSE["networks"].keys() <= rendering.OURS
    for name in ("wan", "jakarta"):
        with pytest.raises(PermanentError, match=r"docker-compose\.yml has something"):
            rendering.check_name(name)


def test_more_outlets_than_there_are_offsets_are_said() -> None:
    with pytest.raises(PermanentError, match="number 101"):
        rendering.check_keys("kuta", Product.MARIADB, 101)
    rendering.check_keys("kuta", Product.MSSQL, 101)


def test_the_files_for_an_outlet_of_ones_own_parse() -> None:
    for engine in Product:
        written = yaml.safe_load(rendering.compose("kuta", engine, 5))
        assert len(outlet_of("kuta", written["services"])) == 5
        assert set(written["volumes"]) == {f"kuta-{kind}" for kind in ("tls", "secrets", "admin", "db-data")}
        assert "{{" not in rendering.words("kuta", engine, "hub.example.com:7707", "toko")
        files = rendering.site("kuta", engine, "hub.example.com:7707", "toko")
        assert load(ROOT / "deploy/outlet/compose.yml") == yaml.safe_load(files["compose.yml"])
        settings = dict(line.split("=", 1) for line in files["outlet.env"].splitlines() if line.startswith("SUBAK_"))
        assert settings["SUBAK_OUTLET"] == "kuta" and settings["SUBAK_HUB"] == "hub.example.com:7707"
        assert settings.keys() <= VARIABLES | {f"{variable}_FILE" for variable in VARIABLES}
        mounted = {volume["target"] for volume in SITE["capture"]["volumes"]}
        assert mounted >= {settings["SUBAK_DATABASE_URL_FILE"], str(Path(settings["SUBAK_TLS_KEY"]).parent)}


@pytest.mark.parametrize("name", ["on", "null", "123", "1e3"])
def test_an_outlet_may_have_a_name_that_means_something_to_yaml(name: str) -> None:
    written = yaml.safe_load(rendering.compose(name, Product.MYSQL, 5))
    assert written["services"][f"{name}-capture"]["environment"] == {"SUBAK_OUTLET": name}
    assert written["services"][f"{name}-db"]["profiles"] == written["services"][f"{name}-db"]["networks"] == [name]
    assert written["networks"] == {name: None}


def test_what_the_services_are_told_are_settings() -> None:
    for name, service in OURS.items():
        told = {key for key in service.get("environment", {}) if not key.startswith("SUBAK_TEST_")} - {"ACCEPT_EULA"}
        assert told <= VARIABLES | {f"{variable}_FILE" for variable in VARIABLES}, name


def test_no_password_stands_in_a_file() -> None:
    for name, service in ALL.items():
        for key, value in service.get("environment", {}).items():
            if "PASSWORD" in key or "URL" in key:
                assert "FILE" in key and str(value).startswith("/"), f"{name}: {key}"
    for line in (ROOT / "deploy/outlet/outlet.env.example").read_text("utf-8").splitlines():
        if "PASSWORD" in line or "URL" in line:
            assert re.fullmatch(r"[A-Z_]+_FILE=/\S+", line), line


def test_every_variable_is_in_the_readme() -> None:
    asked = {found for text in TEXTS[:2] + TEXTS[3:] for found in re.findall(r"(?<!\$)\$\{(\w+)", text)}
    assert "SUBAK_BIND" in asked
    assert [variable for variable in sorted(asked) if variable not in README] == []


@pytest.mark.parametrize(("lock", "extra"), [("hub", None), ("outlet", "mssql")])
def test_the_locks_are_those_of_pyproject(lock: str, extra: str | None) -> None:
    """If not: make lock."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = project["dependencies"] + (project["optional-dependencies"][extra] if extra else [])
    text = (ROOT / f"deploy/locks/{lock}.txt").read_text("utf-8")
    blocks = re.findall(r"^(\S+?)==(\S+)(.*?)(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    direct = {name: version for name, version, rest in blocks if "subak (pyproject.toml" in rest}
    requirements = {one.name.lower(): one for one in map(Requirement, wanted)}
    assert direct.keys() == requirements.keys()
    for name, requirement in requirements.items():
        assert requirement.specifier.contains(direct[name]), f"{requirement}: locked at {direct[name]}"


@pytest.mark.parametrize("lock", sorted((ROOT / "deploy/locks").glob("*.txt")), ids=lambda path: path.stem)
def test_everything_locked_has_hashes_and_names_no_index(lock: Path) -> None:
    text = lock.read_text("utf-8")
    blocks = re.findall(r"^\S+==.*?(?=^\S|\Z)", text, re.MULTILINE | re.DOTALL)
    assert blocks and all("--hash=sha256:" in block for block in blocks)
    assert "://" not in text and "--index" not in text


def test_the_recipe_of_the_images() -> None:
    text = (ROOT / "deploy/Dockerfile").read_text("utf-8")
    stages: dict[str, str] = {}
    for base, name, lines in re.findall(r"^FROM (\S+) AS (\S+)\n(.*?)(?=^FROM|\Z)", text, re.MULTILINE | re.DOTALL):
        stages[name] = stages.get(base, "") + lines
    assert "# syntax" not in text  # it would be asked of a registry
    for target in ("hub", "capture", "applier", "cli"):
        assert "USER 10001:10001" in stages[target], target
        assert "org.opencontainers.image.revision" in stages[target], target
    assert "odbc" not in stages["hub"]
    for line in re.findall(r"pip .*install .*", text):
        assert "--require-hashes" in line or "--no-index" in line, line


def test_who_sees_whom() -> None:
    assert ALL["hub"]["networks"] == ["hub-db", "wan"]
    for name, service in ALL.items():
        kind = name.rpartition("-")[2]
        if kind in ("capture", "applier"):
            assert service["networks"]["wan"] == {"aliases": [kind]}, name
        if kind == "db":
            assert service["networks"] == [name.removesuffix("-db") if name != "hub-db" else "hub-db"], name
