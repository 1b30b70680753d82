"""The state machine: any split of a stream means the same; nothing a peer sends does harm. The rest is in test_transcripts."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.kernel.errors import ProtocolError, SubakError, TransientError
from services.kernel.wire.frames import HEADER, frame
from services.kernel.wire.messages import (
    MAX_FRAME_BYTES,
    MAX_HELLO_BYTES,
    AnyMessage,
    Batch,
    Bye,
    Delivery,
    Executed,
    Hello,
    Message,
    OutletInfo,
    Part,
    Ping,
    Pong,
    QuarantineReport,
    Refused,
    Report,
    Role,
    Roster,
    Stored,
    Welcome,
)
from services.kernel.wire.session import DEAD_SECONDS, HEARTBEAT_SECONDS, HELLO_SECONDS, Session, Side, State
from tests.unit.test_frames import pieces

ZERO, ONE = b"\0" * 32, b"\1" * 32
HELLO = {role: Hello(1, role, "ubud", "e1", 0, ZERO) for role in Role}
WELCOME = Welcome("besakih", 0, ZERO, [OutletInfo("ubud", "Sawah", "Ubud", True)])
BATCH = Batch("e1", 1, ZERO, ONE, 2, 1, 6, 2)
DELIVERY = Delivery(1, 0, "kuta", "e1", 1, ZERO, ONE, 2, 1, 6, 2)
PARTS = (Part(0, b"abc"), Part(1, b"def"))
EVERY: tuple[AnyMessage, ...] = (
    *HELLO.values(),
    WELCOME,
    Refused("gap", "what"),
    BATCH,
    *PARTS,
    Stored("e1", 1),
    DELIVERY,
    Executed(1, 1, [QuarantineReport(0, "check", "no")]),
    Report(1, 2),
    Roster([]),
    Ping(1),
    Pong(1),
    Bye(),
)
TIME = 50.0


def encoded(*messages: AnyMessage) -> bytes:
    return b"".join(frame(msgspec.msgpack.encode(message)) for message in messages)


def taken(session: Session, data: bytes, now: float = TIME) -> list[AnyMessage]:
    session.feed(data, now)
    messages = []
    while (message := session.take()) is not None:
        messages.append(message)
    return messages


def hub(state: State, role: Role = Role.CAPTURE) -> Session:
    session = Session(Side.HUB, TIME)
    if state is not State.NEW:
        taken(session, encoded(HELLO[role]))
    if state in (State.READY, State.CLOSED):
        session.send(WELCOME, TIME)
    if state is State.CLOSED:
        session.send(Bye(), TIME)
    return session


def outlet(state: State, role: Role = Role.CAPTURE) -> Session:
    session = Session(Side.OUTLET, TIME)
    if state is not State.NEW:
        session.send(HELLO[role], TIME)
    if state in (State.READY, State.CLOSED):
        taken(session, encoded(WELCOME))
    if state is State.CLOSED:
        session.send(Bye(), TIME)
    return session


ACCEPTED: dict[tuple[Side, State, Role], set[type[Message]]] = {
    (Side.HUB, State.NEW, Role.CAPTURE): {Hello},
    (Side.HUB, State.GREETED, Role.CAPTURE): {Bye},
    (Side.HUB, State.READY, Role.CAPTURE): {Batch, Ping, Pong, Bye},
    (Side.HUB, State.READY, Role.APPLIER): {Report, Ping, Pong, Bye},
    (Side.OUTLET, State.NEW, Role.CAPTURE): set(),
    (Side.OUTLET, State.GREETED, Role.CAPTURE): {Welcome, Refused, Bye},
    (Side.OUTLET, State.READY, Role.CAPTURE): {Roster, Refused, Ping, Pong, Bye},
    (Side.OUTLET, State.READY, Role.APPLIER): {Delivery, Roster, Refused, Ping, Pong, Bye},
}
"""With nothing announced: neither a part nor an answer is due."""


@pytest.mark.parametrize(("place", "allowed"), ACCEPTED.items())
def test_each_state_accepts_what_it_accepts(place: tuple[Side, State, Role], allowed: set[type[Message]]) -> None:
    side, state, role = place
    for message in EVERY:
        session = (hub if side is Side.HUB else outlet)(state, role)
        if type(message) in allowed:
            assert taken(session, encoded(message)) == ([] if isinstance(message, Ping | Pong) else [message])
        else:
            with pytest.raises(ProtocolError) as refused:
                taken(session, encoded(message))
            assert refused.value.code == "state"


def test_answers_are_accepted_once_and_in_order() -> None:
    session = outlet(State.READY)
    for number in (1, 2):
        session.send(Batch("e1", number, ZERO, ONE, 2, 1, 6, 2), TIME)
        for part in PARTS:
            session.send(part, TIME)
    assert taken(session, encoded(Stored("e1", 1))) == [Stored("e1", 1)]
    with pytest.raises(ProtocolError) as refused:
        taken(session, encoded(Stored("e1", 1)))
    assert refused.value.code == "state"


def test_an_answer_before_the_last_part_is_refused() -> None:
    session = hub(State.READY, Role.APPLIER)
    session.send(DELIVERY, TIME)
    session.send(PARTS[0], TIME)
    assert session.owes_parts
    with pytest.raises(ProtocolError) as refused:
        taken(session, encoded(Executed(1)))
    assert refused.value.code == "state"


@pytest.mark.parametrize(
    ("announced", "code"),
    [
        (Batch("e1", 1, ZERO, ONE, 1, 1, 2**30 + 1, 1025), "limit"),
        (Batch("e1", 1, ZERO, ONE, 1, 1, 2**20 + 1, 1), "message"),
        (Batch("e1", 1, ZERO, ONE, 1, 1, 2, 3), "message"),
        (Batch("e1", 1, ZERO, ONE, 1, 1, 0, 0), "message"),
        (Batch("e1", 1, ZERO, ONE, 1, 1, 5, 0), "message"),
        (Batch("e1", 1, ZERO, ONE, 1, 2, 5, 1), "message"),
        (Batch("e1", 0, ZERO, ONE, 1, 1, 5, 1), "message"),
        (Batch("e1", 2**63, ZERO, ONE, 1, 1, 5, 1), "message"),
        (Batch("e" * 33, 1, ZERO, ONE, 1, 1, 5, 1), "message"),
        (Batch("e1", 1, ZERO[1:], ONE, 1, 1, 5, 1), "message"),
    ],
)
def test_an_announcement_that_cannot_be_is_refused(announced: Batch, code: str) -> None:
    with pytest.raises(ProtocolError) as refused:
        taken(hub(State.READY), encoded(announced))
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        ([Part(0, b"")], "message"),
        ([Part(0, b"abcdef")], "message"),
        ([Part(0, b"abc"), Part(1, b"de")], "message"),
        ([Part(0, b"abc"), Part(1, b"defg")], "message"),
        ([Part(0, b"abc"), Part(0, b"abc")], "state"),
        ([Part(0, b"abc"), Part(1, b"def"), Part(2, b"g")], "state"),
    ],
)
def test_parts_that_do_not_make_the_batch_are_refused(parts: list[Part], code: str) -> None:
    session = hub(State.READY)
    with pytest.raises(ProtocolError) as refused:
        taken(session, encoded(BATCH, *parts))
    assert refused.value.code == code


@pytest.mark.parametrize("name", ["", "a b", "ubud\n", "x" * 65, "é", "../x"])
def test_a_name_that_no_outlet_can_have_is_refused(name: str) -> None:
    with pytest.raises(ProtocolError) as refused:
        taken(hub(State.NEW), encoded(Hello(1, Role.CAPTURE, name, "e1", 0, ZERO)))
    assert refused.value.code == "message"


def test_another_version_is_told_so_whatever_its_hello_looks_like() -> None:
    with pytest.raises(ProtocolError) as refused:
        taken(hub(State.NEW), frame(msgspec.msgpack.encode({"type": "hello", "protocol": 7, "name": {"new": 1}})))
    assert refused.value.code == "version"


def test_unknown_fields_are_passed_over() -> None:
    newer = {**msgspec.to_builtins(HELLO[Role.CAPTURE], builtin_types=(bytes,)), "more": [1, {"a": None}]}
    assert taken(hub(State.NEW), frame(msgspec.msgpack.encode(newer))) == [HELLO[Role.CAPTURE]]


@pytest.mark.parametrize(
    "payload",
    [
        b"\xc1",
        b"\x90",
        msgspec.msgpack.encode({"type": "shutdown"}),
        msgspec.msgpack.encode({"type": "hello", "protocol": "1"}),
        msgspec.msgpack.encode({"protocol": 1}),
        b"\x81\xa4type\xa2\xff\xfe",
        b"\x82\xa4type\xa5hello\xa1x" + b"\x91" * 60_000,
        b"\x82\xa4type\xa5hello\xa6outlet\xdb\xff\xff\xff\xff",
        msgspec.msgpack.encode(HELLO[Role.CAPTURE]) + b"\x00",
    ],
)
def test_what_is_no_message_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError) as refused:
        taken(hub(State.NEW), frame(payload))
    assert refused.value.code == "message"


def test_a_stranger_cannot_send_a_long_frame_and_an_outlet_can() -> None:
    with pytest.raises(ProtocolError) as refused:
        taken(hub(State.NEW), HEADER.pack(MAX_HELLO_BYTES + 1, 0))
    assert refused.value.code == "limit"
    assert taken(hub(State.READY), HEADER.pack(MAX_FRAME_BYTES, 0)) == []
    with pytest.raises(ProtocolError):
        taken(hub(State.READY), HEADER.pack(MAX_FRAME_BYTES + 1, 0))


def test_after_an_error_only_the_last_word_is_said() -> None:
    session = hub(State.READY)
    with pytest.raises(ProtocolError):
        taken(session, encoded(Report(0, 0)))
    assert taken(session, encoded(BATCH)) == []
    assert session.held == 0
    with pytest.raises(ValueError, match="Stored"):
        session.send(Stored("e1", 1), TIME)
    assert session.send(Refused("state", "what"), TIME)
    with pytest.raises(ValueError, match="Bye"):
        session.send(Bye(), TIME)


# ---- time


def test_a_connection_without_hello_is_given_up() -> None:
    session = hub(State.NEW)
    assert session.due() == TIME + HELLO_SECONDS
    session.feed(b"\0", TIME + 5)  # dripping does not help
    session.expire(TIME + HELLO_SECONDS - 0.1)
    with pytest.raises(ProtocolError) as refused:
        session.expire(TIME + HELLO_SECONDS)
    assert refused.value.code == "silence"


def test_an_outlet_waits_for_welcome_no_longer_than_for_any_sign_of_life() -> None:
    session = outlet(State.GREETED)
    session.expire(TIME + DEAD_SECONDS - 0.1)
    with pytest.raises(TransientError):
        session.expire(TIME + DEAD_SECONDS)


@pytest.mark.parametrize("side", [hub, outlet])
def test_pings_keep_a_quiet_link_alive_and_silence_ends_it(side: type) -> None:
    session: Session = side(State.READY)
    assert session.heartbeat(TIME + HEARTBEAT_SECONDS - 0.1) == b""
    assert session.due() == TIME + HEARTBEAT_SECONDS
    assert session.heartbeat(TIME + HEARTBEAT_SECONDS) == encoded(Ping(int((TIME + HEARTBEAT_SECONDS) * 1e6)))
    assert session.heartbeat(TIME + HEARTBEAT_SECONDS) == b""
    session.feed(encoded(Pong(1))[:3], TIME + 20)  # any byte counts
    session.expire(TIME + 20 + DEAD_SECONDS - 0.1)
    with pytest.raises(TransientError) as dead:
        session.expire(TIME + 20 + DEAD_SECONDS)
    assert dead.value.code == "connection"
    assert session.heartbeat(TIME + 60) == b""


def test_silence_that_is_ones_own_doing_is_not_held_against_the_peer() -> None:
    session = hub(State.READY)
    session.listen(False, TIME)
    session.expire(TIME + 10 * DEAD_SECONDS)
    session.listen(True, TIME + 10 * DEAD_SECONDS)
    session.expire(TIME + 11 * DEAD_SECONDS - 0.1)
    with pytest.raises(TransientError):
        session.expire(TIME + 11 * DEAD_SECONDS)


def test_any_number_of_pings_is_answered_once() -> None:
    session = hub(State.READY)
    assert taken(session, encoded(*(Ping(time) for time in range(1000)))) == []
    assert session.heartbeat(TIME) == encoded(Pong(999))
    assert session.heartbeat(TIME) == b""


@pytest.mark.parametrize(("data", "error"), [(b"", TransientError), (b"\0\0", ProtocolError)])
def test_the_end_of_the_stream(data: bytes, error: type[SubakError]) -> None:
    session = hub(State.READY)
    taken(session, data)
    with pytest.raises(error):
        session.end()
    assert outlet(State.CLOSED).end() is None  # type: ignore[func-returns-value]


# ---- any bytes

CONVERSATION = encoded(HELLO[Role.CAPTURE]), encoded(BATCH, PARTS[0], Ping(5), PARTS[1], BATCH, *PARTS, Pong(9), Bye())


@given(st.lists(st.integers(0, 10_000), max_size=30))
def test_any_split_gives_the_same_messages(cuts: list[int]) -> None:
    session = Session(Side.HUB, TIME)
    messages = []
    for piece in pieces(CONVERSATION[0], cuts):
        messages += taken(session, piece)
    session.send(WELCOME, TIME)
    for piece in pieces(CONVERSATION[1], cuts):
        messages += taken(session, piece)
    assert messages == [HELLO[Role.CAPTURE], BATCH, *PARTS, BATCH, *PARTS, Bye()]
    assert session.state is State.CLOSED


@st.composite
def noise(draw: st.DrawFn) -> bytes:
    """Bytes, framed or not, out of messages whole, damaged and invented."""
    message = st.sampled_from(EVERY).map(lambda message: msgspec.msgpack.encode(message))
    damaged = st.tuples(message, st.integers(0, 200), st.binary(max_size=3)).map(
        lambda damage: damage[0][: damage[1]] + damage[2] + damage[0][damage[1] + 1 :]
    )
    payload = st.one_of(message, damaged, st.binary(min_size=1, max_size=200))
    framed = payload.filter(bool).map(frame)
    return b"".join(draw(st.lists(st.one_of(framed, framed, st.binary(max_size=40)), max_size=8)))


@settings(max_examples=400, deadline=None)
@given(st.sampled_from([hub, outlet]), st.sampled_from(State), st.sampled_from(Role), noise(), st.integers(1, 300))
def test_nothing_a_peer_sends_does_harm(side: type, state: State, role: Role, data: bytes, size: int) -> None:
    session: Session = side(state, role)
    try:
        for start in range(0, len(data), size):
            taken(session, data[start : start + size])
            assert session.held < HEADER.size + MAX_FRAME_BYTES
        session.end()
    except SubakError as error:
        assert isinstance(error, ProtocolError | TransientError)
        assert session.held == 0
