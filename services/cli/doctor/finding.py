"""What the doctor found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Urgency(StrEnum):
    MUST = "must"
    """Something will not work, or rows will not converge: exit code 1."""
    CHECK = "check"
    """It may be meant so; only somebody who knows the application can tell."""
    NOTE = "note"
    """Good to know."""


@dataclass(frozen=True)
class Finding:
    urgency: Urgency
    code: str
    subject: str
    """A table, a trigger, a server setting."""
    what: str
    todo: str = ""


def must(code: str, subject: str, what: str, todo: str) -> Finding:
    return Finding(Urgency.MUST, code, subject, what, todo)


def check(code: str, subject: str, what: str, todo: str) -> Finding:
    return Finding(Urgency.CHECK, code, subject, what, todo)


def note(code: str, subject: str, what: str, todo: str = "") -> Finding:
    return Finding(Urgency.NOTE, code, subject, what, todo)
