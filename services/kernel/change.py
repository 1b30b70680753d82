"""The whole vocabulary on one screen: a row change, the transaction it was committed in, the batch it travels in.

Nothing here knows a database or a socket. `../ARCHITECTURE.md` tells how one of these finds its way.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Annotated, NamedTuple

import msgspec


class Op(StrEnum):
    """What was done to a row. A changed primary key is a DELETE with `paired` set and the INSERT that follows it."""

    INSERT = "I"
    UPDATE = "U"
    DELETE = "D"


Time = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""Microseconds since 1970 UTC, as a BIGINT column holds them. Checked, like all of these, when a body is decoded."""

MAX_NAME = 64
Name = Annotated[str, msgspec.Meta(max_length=MAX_NAME)]
"""The longest name of a table or an outlet: what MySQL takes, and Subak's tables hold."""


Generation = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""Of the conflict rules: the time at which the hub gave them out, in µs since 1970 UTC; 0: before any."""


class Stamp(NamedTuple):
    """When and where a change was made: a hybrid logical clock (Kulkarni et al., 2014), one per row.

    `time` is in microseconds since 1970 UTC, pushed past the stamp of the version that the change overwrote, so that a
    change always beats what its author had seen. Two stamps are compared as (time, origin); origin is an outlet's name.
    """

    time: Time
    origin: Name


NEVER = Stamp(0, "")
"""The stamp of a row that has no version: nobody has changed it since the triggers were installed."""


class Change(msgspec.Struct, frozen=True, array_like=True):
    """One row inserted, updated or deleted. The images are canonical JSON objects, kept as text until somebody must look inside.

    `key` is the row key (`values.row_key`) as the origin computed it: good for showing; an applier computes its own.
    `before` is None for an insert, or the last image of the tombstone that the insert replaced; `after` is None for a delete.
    `base` is the version that the change overwrote. `policy` is the generation of the conflict rules (`policy.py`) under which the
    change was made: its origin says so, and all outlets decide it by those. 0: none, `row` everywhere.
    """

    table: Name
    op: Op
    key: str
    before: str | None
    after: str | None
    stamp: Stamp
    base: Stamp
    paired: bool = False
    policy: Generation = 0


class Transaction(msgspec.Struct, frozen=True, array_like=True):
    """What one source transaction committed, in source order: visible whole or not at all, everywhere.

    `label` names the source transaction where its engine has a name for one; it is for showing only.
    """

    label: str
    changes: tuple[Change, ...]


class BatchId(NamedTuple):
    """Names a batch for ever: `number` counts from 1 within one epoch (one life of the outlet's database) of its origin."""

    origin: str
    epoch: str
    number: int


class Batch(msgspec.Struct, frozen=True):
    """Whole transactions travelling together. `body` is `encode_body` of them; `previous` is the predecessor's digest."""

    id: BatchId
    previous: bytes
    body: bytes
    changes: int
    transactions: int

    @property
    def digest(self) -> bytes:
        return digest(self.id, self.previous, self.body)


GENESIS = b"\0" * 32
"""The digest that the first batch of an epoch names as its predecessor's."""


def digesting(batch: BatchId, previous: bytes) -> hashlib._Hash:
    """A SHA-256 that wants only the body, in pieces of any size: for who does not hold a large body at once."""
    return hashlib.sha256(previous + f"{batch.origin}\n{batch.epoch}\n{batch.number}\n".encode())


def digest(batch: BatchId, previous: bytes, body: bytes) -> bytes:
    """SHA-256 over the predecessor's digest, the batch's name and its body: two batches of one number differ visibly."""
    running = digesting(batch, previous)
    running.update(body)
    return running.digest()


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[Transaction, ...])


def encode_body(transactions: tuple[Transaction, ...]) -> bytes:
    return _encoder.encode(transactions)


def decode_body(body: bytes) -> tuple[Transaction, ...]:
    """Raises msgspec.DecodeError (or its child ValidationError) when the bytes are not a batch body."""
    return _decoder.decode(body)
