"""Frames: whatever the pieces, the same payloads; nothing is held that nobody will take."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kernel.errors import ProtocolError
from services.kernel.wire.frames import HEADER, FrameReader, frame

LIMIT = 100


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(st.lists(st.binary(min_size=1, max_size=LIMIT), max_size=20), st.lists(st.integers(0, 10_000), max_size=30))
def test_any_split_gives_the_same_payloads(payloads: list[bytes], cuts: list[int]) -> None:
    reader = FrameReader(LIMIT)
    taken = []
    for piece in pieces(b"".join(map(frame, payloads)), cuts):
        reader.feed(piece)
        while (payload := reader.take()) is not None:
            taken.append(payload)
    assert taken == payloads
    assert len(reader) == 0


@given(st.binary(max_size=2000), st.integers(1, 64))
def test_noise_is_refused_and_never_held_beyond_the_limit(noise: bytes, size: int) -> None:
    reader = FrameReader(LIMIT)
    try:
        for start in range(0, len(noise), size):
            reader.feed(noise[start : start + size])
            while reader.take() is not None:
                pass
            assert len(reader) < HEADER.size + LIMIT
    except ProtocolError as error:
        assert error.code in {"limit", "frame", "flags"}


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (struct.pack(">IB", LIMIT + 1, 0), "limit"),
        (struct.pack(">IB", 2**32 - 1, 0), "limit"),
        (struct.pack(">IB", 0, 0), "frame"),
        (struct.pack(">IB", 10, 1), "flags"),
        (struct.pack(">IB", 10, 0x80), "flags"),
    ],
)
def test_a_header_that_cannot_be_is_refused_before_its_payload(header: bytes, code: str) -> None:
    reader = FrameReader(LIMIT)
    reader.feed(header[:4])
    assert reader.take() is None
    reader.feed(header[4:])
    with pytest.raises(ProtocolError) as refused:
        reader.take()
    assert refused.value.code == code
    assert refused.value.todo


def test_a_new_limit_holds_from_the_next_frame_on() -> None:
    reader = FrameReader(3)
    reader.feed(frame(b"abc") + frame(b"x" * 50))
    assert reader.take() == b"abc"
    reader.limit = 50
    assert reader.take() == b"x" * 50
