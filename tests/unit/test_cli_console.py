"""What people read: nothing that came from elsewhere can move their cursor, or forge what stands there."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.text import Text

from services.cli import console
from services.kernel.errors import PermanentError

HOSTILE = "ok\x1b[2J\x1b]0;all is well\x07\r\x9b31m\x7f"


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Of a terminal in colours."""
    made = io.StringIO()
    for one in (console.console, console.errors):
        monkeypatch.setattr(one, "file", made)
        monkeypatch.setattr(one, "_force_terminal", True)
    return made


def test_control_characters_are_shown_and_not_obeyed(screen: io.StringIO) -> None:
    console.console.print(console.grid(["outlet", HOSTILE], [["ubud", HOSTILE]]))
    console.console.print(HOSTILE, markup=False)
    console.console.print(Text(HOSTILE, style="yellow"))
    console.explain(PermanentError("driver", HOSTILE, HOSTILE))
    shown = screen.getvalue()
    ours = io.StringIO()
    Console(file=ours, force_terminal=True).print(Text("x", style="bold red"))
    assert "\x1b[2J" not in shown and "\x1b]0" not in shown
    assert not {*"\x07\r\x9b\x7f"} & {*shown}
    assert shown.count("\\x1b[2J") == 6 and shown.count("\\x9b31m") == 6


def test_what_people_may_read_stays(screen: io.StringIO) -> None:
    console.console.print("領収書 🎁 Ünïcode\ttab\nnext line", markup=False)
    assert screen.getvalue().split() == ["領収書", "🎁", "Ünïcode", "tab", "next", "line"]
