"""Errors by whose turn it is: transient (try again), permanent (somebody must act), protocol (the peer broke the rules).

Each carries a code, what happened, and what to do next. They are raised, never logged and passed over.
"""

from __future__ import annotations


class SubakError(Exception):
    """`code` is stable and machine-readable (`lock_timeout`); `what` says what happened; `todo` what to do next."""

    def __init__(self, code: str, what: str, todo: str = "") -> None:
        super().__init__(f"{what} {todo}".strip() + f" [{code}]")
        self.code = code
        self.what = what
        self.todo = todo


class TransientError(SubakError):
    """The cause may pass by itself: a deadlock, a lost connection, a lock held for too long. The caller tries again."""


class PermanentError(SubakError):
    """The same attempt would fail again: a constraint, a missing table, a value that does not fit, a wrong setting."""


class ProtocolError(SubakError):
    """The peer sent what the protocol does not allow in this state. The connection is closed; nothing was acknowledged."""
