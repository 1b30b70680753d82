"""The transcripts of PROTOCOL.md, replayed on the code of both sides: the document and the code cannot drift apart."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.kernel.errors import SubakError
from services.kernel.wire import messages
from services.kernel.wire.messages import AnyMessage, Message, OutletInfo, Ping, Pong, QuarantineReport, Role
from services.kernel.wire.session import Session, Side

DOCUMENT = Path(messages.__file__).with_name("PROTOCOL.md")
TRANSCRIPTS = re.findall(r"```transcript\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
TYPES = {kind.__name__.lower(): kind for kind in Message.__subclasses__()}
UNITS = {"B": 1, "MB": 1024 * 1024}


def test_the_document_has_transcripts_and_names_every_message() -> None:
    assert len(TRANSCRIPTS) >= 15
    table = DOCUMENT.read_text("utf-8").split("## Messages and their answers")[1]
    for name, kind in TYPES.items():
        row = re.search(rf"^\| `{name}`(.*?)\|", table, re.MULTILINE)
        assert row, name
        assert [field for field in re.split(r"[,\s]+", row[1]) if field] == list(kind.__struct_fields__), name


@pytest.mark.parametrize("transcript", TRANSCRIPTS)
def test_transcript(transcript: str) -> None:
    Replay().run(transcript.strip().splitlines())


class Replay:
    def __init__(self) -> None:
        self.now = 1000.0
        self.sides = {"hub": Session(Side.HUB, self.now), "outlet": Session(Side.OUTLET, self.now)}
        self.error: dict[str, SubakError] = {}

    def run(self, lines: list[str]) -> None:
        for line in lines:
            subject, verb, *rest = line.split(maxsplit=2)
            if subject == "after":
                self.now += float(verb)
                self.expire()
            elif verb == "!":
                assert self.error.pop(side(subject)).code == rest[0], line
            elif verb == "ends":
                self.ends(other(side(subject)))
            elif verb.rstrip(",") in ("ready", "closed"):
                for name, state in re.findall(r"(\w+) (\w+)", line):
                    assert self.sides[side(name)].state.value == state, line
            else:
                self.say(side(subject), verb, rest[0] if rest else "")
        assert not self.error

    def say(self, sender: str, kind: str, fields: str) -> None:
        assert not self.error, (kind, fields)
        speaking, hearing = self.sides[sender], self.sides[other(sender)]
        if kind in ("ping", "pong"):
            data = speaking.heartbeat(self.now)
            assert isinstance(msgspec.msgpack.decode(data[5:], type=AnyMessage), Ping if kind == "ping" else Pong)
            expected = None
        else:
            expected = message(kind, fields)
            data = speaking.send(expected, self.now)
        hearing.feed(data, self.now)
        try:
            assert hearing.take() == expected
            assert hearing.take() is None
        except SubakError as error:
            self.error[other(sender)] = error

    def expire(self) -> None:
        for name, session in self.sides.items():
            try:
                session.expire(self.now)
            except SubakError as error:
                self.error[name] = error

    def ends(self, name: str) -> None:
        try:
            self.sides[name].end()
        except SubakError as error:
            self.error[name] = error


def side(name: str) -> str:
    assert name in ("hub", "capture", "applier"), name
    return "hub" if name == "hub" else "outlet"


def other(name: str) -> str:
    return "outlet" if name == "hub" else "hub"


def message(kind: str, text: str) -> AnyMessage:
    """Fields that are left out are empty or zero."""
    empty: dict[str, Any] = {"epoch": "", "roster": [], "outlets": [], "quarantined": [] if kind == "executed" else 0}
    given: dict[str, Any] = dict(pair.split("=", 1) for pair in shlex.split(text))
    known = TYPES[kind].__struct_fields__
    assert set(given) <= set(known), (kind, given)
    values = {name: value(kind, name, text) for name, text in given.items()}
    return TYPES[kind](**{name: empty[name] for name in known if name in empty} | values)  # type: ignore[return-value]


def value(kind: str, name: str, text: str) -> Any:
    if text.startswith("#"):
        return (b"\0" if text == "#0" else text[1:].encode()) * 32
    if name == "role":
        return Role(text)
    if name in ("roster", "outlets"):
        return [OutletInfo(outlet, "", "", True) for outlet in text.split(",")]
    if name == "quarantined" and kind == "executed":
        return [QuarantineReport(position, "check", "refused") for position in range(int(text))]
    if name == "body":
        size = re.fullmatch(r"([\d.]+)(B|MB)", text)
        assert size, text
        return b"x" * int(float(size[1]) * UNITS[size[2]])
    if name == "paused":
        return text == "true"
    return int(text) if re.fullmatch(r"\d+", text) else text
