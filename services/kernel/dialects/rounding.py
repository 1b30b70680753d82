"""The one rule by which a time loses what its column cannot hold: half up, the same on every engine.

There is no moment after the year 9999: what would round into it is cut.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal


def rounded(text: str, digits: int) -> str:
    """A canonical time or datetime with its fraction in at most `digits` digits."""
    whole, _, fraction = text.partition(".")
    if len(fraction.rstrip("0")) <= digits:
        return text
    steps = int(Decimal(f"0.{fraction}").scaleb(digits).to_integral_value(ROUND_HALF_UP))
    carried, steps = divmod(steps, 10**digits)
    if carried:
        try:
            whole = _second_later(whole)
        except OverflowError:
            steps = 10**digits - 1
    return f"{whole}.{steps:0{digits}}" if digits else whole


def _second_later(whole: str) -> str:
    if " " in whole:
        return (datetime.fromisoformat(whole) + timedelta(seconds=1)).isoformat(sep=" ")
    sign, clock = ("-", whole[1:]) if whole.startswith("-") else ("", whole)
    hours, minutes, seconds = (int(part) for part in clock.split(":"))
    total = hours * 3600 + minutes * 60 + seconds + 1
    return f"{sign}{total // 3600:02}:{total // 60 % 60:02}:{total % 60:02}"
