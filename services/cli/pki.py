"""`subak pki`: the operator's own certificate authority."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from services.cli import packing
from services.cli.console import console, errors, grid, print_json
from services.kernel.authority import AUTHORITY_DAYS, LEAF_DAYS, Authority, Issued
from services.kernel.certificates import moment, number
from services.kernel.environment import Fault, SettingsError, given
from services.kernel.errors import PermanentError
from services.kernel.naming import check_outlet_name
from services.kernel.wire.session import Side

app = typer.Typer(
    help="Certificates for the hub and the outlets, from an authority of your own (folder SUBAK_PKI, else ./pki).",
    no_args_is_help=True,
)

VARIABLE = "SUBAK_PKI"
FOLDER = "pki"

Name = Annotated[str, typer.Argument(metavar="NAME")]
Folder = Annotated[Path | None, typer.Option("--dir", metavar="FOLDER", help="The authority's, instead of SUBAK_PKI.")]


@app.command()
def init(
    name: Annotated[str, typer.Option(help="What the authority calls itself.")] = "Subak",
    days: Annotated[int, typer.Option(min=1, max=36500, help="How long it is good for.")] = AUTHORITY_DAYS,
    folder: Folder = None,
) -> None:
    """Make the authority. One that is there is left as it is."""
    authority = authority_at(folder)
    if not 1 <= len(name) <= 64:
        raise PermanentError("pki_name", "An authority's name has 1 to 64 characters.", "Choose another one by --name.")
    made = authority.init(name, timedelta(days=days))
    console.print(f"The authority in {authority.folder} is {'made' if made else 'there already'}.", markup=False)
    if made:
        console.print(
            f"Keep {authority.key} to yourself, and a copy of it elsewhere: whoever has it can speak for every outlet.",
            markup=False,
        )


@app.command()
def issue(
    name: Name,
    hub: Annotated[bool, typer.Option("--hub", help="For the hub, not for an outlet.")] = False,
    host: Annotated[
        list[str] | None, typer.Option(help="With --hub: a name or address that outlets dial. Repeat it for more.")
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=36500, help="How long it is good for.")] = LEAF_DAYS,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where ca.pem, cert.pem and key.pem go; else private/NAME of the authority's. -: a tar of a new one.",
        ),
    ] = None,
    renew: Annotated[bool, typer.Option("--renew", help="Also when there is a good one.")] = False,
    folder: Folder = None,
) -> None:
    """Have a certificate for outlet NAME (or the hub, by --hub) in a folder, ready for SUBAK_TLS_CA, _CERT and _KEY.

    A good one that is there stays, unless it ends within 30 days or is to be renewed.
    """
    authority = authority_at(folder)
    _check(name, hub, host)
    side, lifetime = (Side.HUB if hub else Side.OUTLET), timedelta(days=days)
    if out == Path(packing.STANDARD_OUTPUT):
        handed, files = packing.certificate(authority, name, side, host or [], lifetime)
        packing.say(files, {packing.KEY})
        errors.print(f"{handed.certificate} is made.", markup=False)
        return
    target = out or authority.private / name
    handed = authority.issue(name, side, target, host or [], lifetime, renew)
    done = "is made" if handed.new else "is there already"
    console.print(f"{handed.certificate} {done}: {target}/ca.pem, cert.pem, key.pem", markup=False)
    _warn_of_the_end(authority)


@app.command()
def revoke(
    name: Name,
    certificate: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Also this one of NAME's, which the authority does not remember: its cert.pem."
        ),
    ] = None,
    folder: Folder = None,
) -> None:
    """Take back every certificate of NAME: whoever shows one is refused from now on, and cut off where it is connected."""
    authority = authority_at(folder)
    revoked = authority.revoke(name, certificate)
    for one in revoked:
        console.print(f"{one.certificate}, for {one.side}: revoked", markup=False)
    if not revoked:
        console.print(f"Every certificate of {name} is revoked already.", markup=False)
    console.print(f"Services that have {authority.crl} as SUBAK_TLS_CRL notice it within seconds.", markup=False)


@app.command(name="list")
def list_command(
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False, folder: Folder = None
) -> None:
    """Every certificate that the authority has made."""
    authority, now = authority_at(folder), datetime.now(UTC)
    issued = authority.listed()
    if as_json:
        print_json([_document(one, now) for one in issued])
        return
    rows = [
        [
            one.certificate.name or "-",
            one.side.value,
            number(one.certificate.serial),
            moment(one.certificate.ends),
            one.state(now) + (f" on {moment(one.revoked_at)}" if one.revoked_at else ""),
        ]
        for one in issued
    ]
    columns = ["name", "for", "serial", "good until", ""]
    console.print(grid(columns, rows) if rows else "No certificate yet: `subak pki issue NAME`.")
    _warn_of_the_end(authority)


def _warn_of_the_end(authority: Authority) -> None:
    ends = authority.ends()
    if ends - datetime.now(UTC) < timedelta(days=LEAF_DAYS):
        console.print(
            f"The authority itself ends on {moment(ends)}, and every certificate with it. Make a new one in another folder; while"
            " both are in use, SUBAK_TLS_CA may hold the certificates of both, one below the other.",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )


def _document(one: Issued, now: datetime) -> dict[str, object]:
    return {
        "name": one.certificate.name,
        "for": one.side.value,
        "serial": number(one.certificate.serial),
        "from": one.certificate.starts.isoformat(),
        "until": one.certificate.ends.isoformat(),
        "days_left": round(one.certificate.days_left(now), 1),
        "state": one.state(now),
        "revoked": one.revoked_at.isoformat() if one.revoked_at else None,
    }


def authority_at(folder: Path | None) -> Authority:
    """In that folder; None: in the one that SUBAK_PKI names, or in ./pki."""
    if folder is None:
        faults: list[Fault] = []
        folder = Path(given(os.environ, VARIABLE, faults) or FOLDER)
        if faults:
            raise SettingsError(faults)
    return Authority(folder)


def _check(name: str, hub: bool, host: list[str] | None) -> None:
    """Raises PermanentError `outlet_name`, `pki_host`."""
    if not (hub and name == str(Side.HUB)):
        check_outlet_name(name)
    if host and not hub:
        raise PermanentError(
            "pki_host", "Nobody dials an outlet: --host is for the hub.", "Say --hub, or leave it out."
        )
