"""Frames: length, flags, payload. Pure and incremental: bytes are fed as they come, payloads are taken as they are whole."""

from __future__ import annotations

import struct

from services.kernel.errors import ProtocolError

HEADER = struct.Struct(">IB")
"""Length of the payload, flags."""

FLAG_COMPRESSED = 0b0000_0001
"""Kept for compression, which no version has yet."""

KNOWN_FLAGS = 0
"""Flags that this version understands."""


def frame(payload: bytes) -> bytes:
    return HEADER.pack(len(payload), 0) + payload


class FrameReader:
    """Holds what was fed and not yet taken: one frame of `limit` bytes at most, if whatever can be taken is taken before more is fed."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        """Bytes of payload. A longer frame is refused as soon as its header is here; it applies from the next header on."""
        self._buffer = bytearray()

    def __len__(self) -> int:
        """Bytes held."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def clear(self) -> None:
        self._buffer.clear()

    def take(self) -> bytes | None:
        """The next payload, or None when it is not whole yet. Raises ProtocolError `frame`, `flags` or `limit`."""
        if len(self._buffer) < HEADER.size:
            return None
        length, flags = HEADER.unpack_from(self._buffer)
        self._check(length, flags)
        end = HEADER.size + length
        if len(self._buffer) < end:
            return None
        payload = bytes(self._buffer[HEADER.size : end])
        del self._buffer[:end]
        return payload

    def _check(self, length: int, flags: int) -> None:
        if length > self.limit:
            raise ProtocolError(
                "limit",
                f"A frame of {length} bytes was announced; {self.limit} are allowed here.",
                "Check that the address is the hub's and that TLS is on at both ends or off at both.",
            )
        if length == 0:
            raise ProtocolError("frame", "An empty frame came.", "Check that the peer is a Subak service.")
        if flags & ~KNOWN_FLAGS:
            raise ProtocolError("flags", f"A frame has the flags {flags:#04x}, which mean nothing here.", UPGRADE)


UPGRADE = "Check that the peer is a Subak service, and run the same version of Subak at both ends."
