"""What the hub itself says to all outlets, at one place in the stream: the bodies of batches whose origin is `_hub`.

Such a batch is stored, delivered, applied and confirmed as any other; see wire/PROTOCOL.md, 'The hub's own batches'.
"""

from __future__ import annotations

import msgspec

from services.kernel.change import Generation
from services.kernel.wire.messages import HUB as HUB
from services.kernel.wire.messages import Epoch, Natural


class Policy(msgspec.Struct, frozen=True, tag="policy"):
    """New conflict rules: the text of the policy file (`policy.parse`), and the generation it is known by from here on."""

    generation: Generation
    rules: str


class Own(msgspec.Struct, frozen=True):
    """Up to where one outlet's own batches may be forgotten."""

    epoch: Epoch
    number: Natural


class Purge(msgspec.Struct, frozen=True, tag="purge"):
    """Deliveries up to `sequence`, and each outlet's own batches up to `own[outlet]`, are executed everywhere, and no change that
    was made without knowing them is still on its way: they may be forgotten, and the tombstones they left with them."""

    sequence: Natural
    own: dict[str, Own]


Control = Policy | Purge

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Control] = msgspec.msgpack.Decoder(Control)


def encode_control(control: Control) -> bytes:
    return _encoder.encode(control)


def decode_control(body: bytes) -> Control:
    """Raises msgspec.DecodeError when the bytes are none of these."""
    return _decoder.decode(body)
