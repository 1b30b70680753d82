"""Who may connect, and what the hub and the outlet then agree on. Works in the caller's transaction and commits nothing."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection

from services.hub import outlets, state
from services.hub.chain import NO_HEAD, Head
from services.hub.forking import Forks
from services.hub.reporting import keep_skew, keep_tables
from services.hub.returning import greet_applier, owes_own
from services.hub.storing import greet_capture, is_another_epoch
from services.kernel.errors import ProtocolError
from services.kernel.wire.messages import HUB, Hello, Role


@dataclass(frozen=True)
class Admission:
    hub: str
    head: Head
    """For a capture: the last batch stored of its epoch."""
    outlets: list[outlets.Outlet]
    paused: bool


def check_identity(hello: Hello, certificate_name: str | None, tls: bool) -> None:
    """Raises ProtocolError `identity`: with TLS an outlet speaks for the name in its certificate only."""
    if tls and certificate_name != hello.outlet:
        raise ProtocolError(
            "identity",
            f"The certificate names {certificate_name!r}, the hello {hello.outlet}.",
            "Set SUBAK_OUTLET to the name the certificate was made for, or use that outlet's own certificate.",
        )


def admit(connection: Connection, hello: Hello, enrol: bool, forks: Forks, now: int) -> Admission:
    """Marks the outlet online and resumes from what it says; see PROTOCOL.md, 'Resuming'.

    Raises ProtocolError `unknown`, `removed`, `fork`, `catching_up`, `gap`, `resync`.
    """
    outlet = next((known for known in outlets.known(connection) if known.name == hello.outlet), None)
    if outlet is None:
        if not enrol or hello.outlet == HUB:
            raise ProtocolError(
                "unknown",
                f"There is no outlet {hello.outlet} at this hub.",
                "The operator adds it with `subak outlet add`, or starts the hub with SUBAK_HUB_ENROL=open.",
            )
        outlets.add(connection, hello.outlet, "", "", now)
    elif outlet.removed:
        raise removed(hello.outlet)
    head = NO_HEAD
    if hello.role is Role.CAPTURE:
        begins = is_another_epoch(connection, hello.outlet, hello.epoch)
        forgotten = Head(hello.epoch, hello.forgotten, hello.forgotten_digest)
        head = greet_capture(connection, hello.outlet, hello.epoch, hello.position, hello.digest, forgotten)
        if begins:
            forks.ask(hello.outlet, hello.epoch, hello.instance, owes_own(connection, hello.outlet))
    else:
        greet_applier(connection, hello, now)
        keep_tables(connection, hello.outlet, hello.tables)
    keep_skew(connection, hello.outlet, hello.time, now)
    outlets.set_online(connection, hello.outlet, True, now)
    return Admission(
        state.get(connection, state.HUB) or "", head, outlets.known(connection), state.is_paused(connection)
    )


def removed(outlet: str) -> ProtocolError:
    return ProtocolError(
        "removed",
        f"Outlet {outlet} was removed from this hub.",
        "The operator can add it again with `subak outlet add`.",
    )
