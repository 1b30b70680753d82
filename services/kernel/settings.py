"""What each service and command is told by its environment, checked before anything else happens; all faults at once.

A database URL may hold a password: it never stands in a message.
"""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from services.kernel.environment import Fault as Fault
from services.kernel.environment import Refused as _Refused
from services.kernel.environment import SettingsError as SettingsError
from services.kernel.environment import at_least, given, unknown
from services.kernel.errors import PermanentError
from services.kernel.naming import is_outlet_name
from services.kernel.policy import parse
from services.kernel.tls import TlsFault, TlsSettings, check_tls
from services.kernel.wire.session import Side

DRIVERS = {"mssql": "pyodbc", "mysql": "pymysql", "mariadb": "pymysql", "sqlite": "pysqlite"}

OUTLETS_ONLY = {"mssql"}
"""Engines that the hub does not keep its queue in."""

TLS_FILES = {"ca": "SUBAK_TLS_CA", "cert": "SUBAK_TLS_CERT", "key": "SUBAK_TLS_KEY"}
TLS_LIST = "SUBAK_TLS_CRL"
TLS = ("SUBAK_TLS", *TLS_FILES.values(), TLS_LIST)

COMMAND_ONLY = ("SUBAK_PKI",)
"""What no service reads, but `subak pki` does."""


class Address(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether nothing but this machine can be behind it."""
        return self.host == "localhost" or is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether that is an address, and of this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _address(text: Any) -> Address:
    """`host:port`; an IPv6 host in brackets."""
    if isinstance(text, Address):
        return text
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^\s:\[\]/@]+)):(\d{1,5})", str(text))
    if not match or int(match[3]) > 65535:
        raise _Refused(f"{text!r} is not host:port.", "Set it to a host and a port, such as 127.0.0.1:7707.")
    return Address(match[1] or match[2], int(match[3]))


def _dialled(text: Any) -> Address:
    address = _address(text)
    if address.port == 0:
        raise _Refused("Port 0 cannot be dialled.", "Set the port that the hub listens on.")
    return address


def dialled(text: str) -> Address:
    """What stands in SUBAK_HUB. Raises PermanentError `hub_address`."""
    try:
        return _dialled(text)
    except _Refused as refused:
        raise PermanentError("hub_address", refused.what, refused.todo) from refused


def _database_url(text: Any) -> URL:
    if isinstance(text, URL):
        return text
    example = "Set it to mysql+pymysql://user:password@host:3306/database or sqlite:////path/to/file.db."
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise _Refused("It is not a database URL (its text is not shown, it may hold a password).", example) from None
    backend, _, driver = url.drivername.partition("+")
    if backend not in DRIVERS:
        raise _Refused(f"{backend} is not an engine that Subak knows.", example)
    if driver and driver != DRIVERS[backend]:
        raise _Refused(f"Subak does not use the driver {driver}.", f"Write {backend}+{DRIVERS[backend]}://.")
    if not url.database or url.database == ":memory:":
        raise _Refused("It names no database that stays.", example)
    return url.set(drivername=f"{backend}+{DRIVERS[backend]}")


def _hub_database_url(text: Any) -> URL:
    url = _database_url(text)
    if url.get_backend_name() in OUTLETS_ONLY:
        raise _Refused(
            "The hub keeps its queue in MySQL, MariaDB or SQLite; SQL Server is for outlets.",
            "Set it to mysql+pymysql://user:password@host:3306/database or sqlite:////path/to/file.db.",
        )
    return url


def _outlet(text: Any) -> str:
    if not is_outlet_name(str(text)):
        raise _Refused(
            f"{str(text)[:80]!r} is no name for an outlet.", "Use 1 to 64 of the characters A-Z a-z 0-9 _ . - only."
        )
    return str(text)


def _globs(text: Any) -> tuple[str, ...]:
    """Globs separated by commas or blanks."""
    if isinstance(text, tuple):
        return text
    globs = tuple(re.split(r"[,\s]+", str(text).strip(", \t\n")))
    if globs == ("",):
        raise _Refused(
            "It names no table.", "Set it to globs, such as sales_*,product, or leave it out for every table."
        )
    return globs


def _enrol(text: Any) -> bool:
    if isinstance(text, bool):
        return text
    if text not in ("open", "closed"):
        raise _Refused(f"{text!r} is neither.", "Set it to open or closed.")
    return bool(text == "open")


def _file(text: Any) -> Path:
    path = Path(text)
    if not path.is_file():
        raise _Refused(f"There is no file {str(text)!r}.", "Set it to the path of a file that can be read.")
    return path


def _policy_file(text: Any) -> Path:
    """A file of conflict rules (`policy.py`), which are right as they stand there."""
    path = _file(text)
    try:
        parse(path.read_text("utf-8-sig"))
    except PermanentError as error:
        raise _Refused(error.what, error.todo) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise _Refused(f"{str(path)!r} cannot be read: {reason}.", "Set it to a file that the hub may read.") from None
    return path


ListenAddress = Annotated[Address, BeforeValidator(_address)]
DialledAddress = Annotated[Address, BeforeValidator(_dialled)]
DatabaseUrl = Annotated[URL, BeforeValidator(_database_url)]
HubDatabaseUrl = Annotated[URL, BeforeValidator(_hub_database_url)]
Outlet = Annotated[str, BeforeValidator(_outlet)]
Globs = Annotated[tuple[str, ...], BeforeValidator(_globs)]
Enrol = Annotated[bool, BeforeValidator(_enrol)]
PolicyFile = Annotated[Path, BeforeValidator(_policy_file)]
KeepDays = Annotated[float, BeforeValidator(at_least(0, "7"))]
OfflineDays = Annotated[float, BeforeValidator(at_least(0.001, "30"))]
OfflineBytes = Annotated[int, BeforeValidator(lambda text: int(at_least(1, "10737418240")(text)))]
ClockLimit = Annotated[float, BeforeValidator(at_least(0.1, "5"))]

CLOCK_LIMIT_SECONDS = 5.0
"""How far ahead of the hub's clock a stamp may be: more than what clocks that are kept by NTP, and a slow link, differ by."""


class Settings(BaseModel):
    """`variables` says which environment variable gives which field."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True, extra="forbid", hide_input_in_errors=True)
    variables: ClassVar[dict[str, str]] = {}
    peer: ClassVar[str] = ""
    """The field with the address that TLS is about: without TLS it must be a loopback one. Empty: no TLS here."""


class ServingSettings(Settings):
    """Of what is no service of the network, and says how it is all the same."""

    variables = {"metrics_listen": "SUBAK_METRICS_LISTEN"}
    metrics_listen: ListenAddress | None = None


class HubDatabaseSettings(Settings):
    variables = {"database_url": "SUBAK_HUB_DATABASE_URL"}
    database_url: HubDatabaseUrl


class HubSettings(HubDatabaseSettings):
    variables = {
        **HubDatabaseSettings.variables,
        "listen": "SUBAK_HUB_LISTEN",
        "enrol": "SUBAK_HUB_ENROL",
        "metrics_listen": "SUBAK_METRICS_LISTEN",
        "policy_file": "SUBAK_POLICY_FILE",
        "keep_days": "SUBAK_KEEP_DAYS",
        "offline_days": "SUBAK_OFFLINE_DAYS",
        "offline_bytes": "SUBAK_OFFLINE_BYTES",
    }
    peer = "listen"
    listen: ListenAddress
    enrol: Enrol = False
    metrics_listen: ListenAddress | None = None
    policy_file: PolicyFile | None = None
    keep_days: KeepDays = 7.0
    """Batches that are executed everywhere are kept so long: an outlet put back to a backup no older gets again what it lost."""
    offline_days: OfflineDays = 30.0
    offline_bytes: OfflineBytes = 10 * 1024**3
    """An outlet for which something waits longer, or more, is given up: the others must be able to forget."""
    tls: TlsSettings | None = None


class OutletDatabaseSettings(Settings):
    variables = {
        "outlet": "SUBAK_OUTLET",
        "database_url": "SUBAK_DATABASE_URL",
        "tables": "SUBAK_TABLES",
        "clock_limit": "SUBAK_CLOCK_LIMIT",
    }
    outlet: Outlet | None = None
    database_url: DatabaseUrl
    tables: Globs = ("*",)
    clock_limit: ClockLimit = CLOCK_LIMIT_SECONDS


class OutletSettings(Settings):
    variables = {
        **OutletDatabaseSettings.variables,
        "hub": "SUBAK_HUB",
        "metrics_listen": "SUBAK_METRICS_LISTEN",
    }
    peer = "hub"
    outlet: Outlet
    hub: DialledAddress
    database_url: DatabaseUrl
    tables: Globs = ("*",)
    clock_limit: ClockLimit = CLOCK_LIMIT_SECONDS
    metrics_listen: ListenAddress | None = None
    tls: TlsSettings | None = None


VARIABLES = frozenset({*HubSettings.variables.values(), *OutletSettings.variables.values(), *TLS, *COMMAND_ONLY})
"""Every variable of every service: one that belongs to another service is no fault."""

T = TypeVar("T", bound=Settings)


def load(kind: type[T], environ: Mapping[str, str] = os.environ) -> T:
    """Raises SettingsError with every fault there is."""
    faults = unknown(environ, VARIABLES)
    wanted = [*kind.variables.values(), *(TLS if kind.peer else ())]
    found = {variable: text for variable in wanted if (text := given(environ, variable, faults))}
    unreadable = {fault.variable.removesuffix("_FILE") for fault in faults}
    values: dict[str, Any] = {field: found[name] for field, name in kind.variables.items() if name in found}
    if kind.peer:
        values["tls"] = _tls(kind, found, unreadable, faults)
    try:
        settings = kind.model_validate(values)
    except ValidationError as error:
        for detail in error.errors():
            fault = _fault(kind.variables[str(detail["loc"][0])], detail.get("ctx", {}).get("error"))
            if fault.variable not in unreadable:
                faults.append(fault)
    if faults:
        raise SettingsError(faults)
    return settings


def load_or_exit(kind: type[T]) -> T:
    """As `load` from the environment; prints the faults to stderr and exits with code 2."""
    try:
        return load(kind)
    except SettingsError as error:
        print(error.what, file=sys.stderr)
        raise SystemExit(2) from None


def _fault(variable: str, refused: object) -> Fault:
    if isinstance(refused, _Refused):
        return Fault(variable, refused.what, refused.todo)
    return Fault(variable, "It is missing.", f"Set it: {MEANING[variable]}.")


MEANING = {
    "SUBAK_HUB_LISTEN": "where the hub listens, such as 127.0.0.1:7707",
    "SUBAK_HUB_DATABASE_URL": "the hub's own database, such as mysql+pymysql://user:password@host:3306/subak",
    "SUBAK_OUTLET": "this outlet's name",
    "SUBAK_HUB": "where the hub is, such as hub.example.com:7707",
    "SUBAK_DATABASE_URL": "the outlet's database, such as mysql+pymysql://user:password@host:3306/shop",
    "SUBAK_TLS_CA": "the path of the certificate that signed the others",
    "SUBAK_TLS_CERT": "the path of this service's certificate",
    "SUBAK_TLS_KEY": "the path of its key",
}
"""Of the variables that must be set."""


def _tls(kind: type[T], found: Mapping[str, str], unreadable: set[str], faults: list[Fault]) -> TlsSettings | None:
    files = {name: found[variable] for name, variable in TLS_FILES.items() if variable in found}
    switch = found.get("SUBAK_TLS")
    if switch is not None and switch != "off":
        faults.append(
            Fault("SUBAK_TLS", f"{switch!r} is not known.", "Leave it out, or set it to off on this machine only.")
        )
        return None
    if switch == "off":
        _check_off(kind, found, files, faults)
        return None
    for name, variable in TLS_FILES.items():
        if name not in files and variable not in unreadable:
            hint = "" if files else " (Or SUBAK_TLS=off, when hub and outlets are all on this machine.)"
            faults.append(Fault(variable, "It is missing.", f"Set it: {MEANING[variable]}.{hint}"))
    if len(files) < len(TLS_FILES):
        return None
    crl = Path(found[TLS_LIST]) if TLS_LIST in found else None
    tls = TlsSettings(**{name: Path(path) for name, path in files.items()}, crl=crl)
    side = Side.OUTLET if "outlet" in kind.variables else Side.HUB
    outlet = found.get("SUBAK_OUTLET") if side is Side.OUTLET else None
    wrong: list[TlsFault] = check_tls(tls, side, outlet, datetime.now(UTC))
    faults.extend(Fault({**TLS_FILES, "crl": TLS_LIST}[file], what, todo) for file, what, todo in wrong)
    return tls


def _check_off(kind: type[T], found: Mapping[str, str], files: Mapping[str, str], faults: list[Fault]) -> None:
    variable = kind.variables[kind.peer]
    if files or TLS_LIST in found:
        faults.append(Fault("SUBAK_TLS", "It is off, and certificates are set.", "Set the one or the other."))
    try:
        address = _address(found.get(variable, ""))
    except _Refused:
        return  # told as a fault of that variable
    if not address.loopback:
        faults.append(
            Fault(
                "SUBAK_TLS",
                f"It is off, and {variable} ({address}) is not an address of this machine alone.",
                f"Set {', '.join(TLS_FILES.values())} instead, or use 127.0.0.1.",
            )
        )
