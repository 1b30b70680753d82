"""Until when an outlet's certificates are good, as the hub has it on record: of both its services, wherever they run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy.engine import URL

from services.hub import certificates, state
from services.hub.queue import Queue, open_queue
from services.kernel.wire.messages import Role


@pytest.fixture
def queue(hub_url: URL) -> Iterator[Queue]:
    queue = open_queue(hub_url, lambda: 1)
    queue.prepare()
    yield queue
    queue.close()


def test_the_one_that_ends_first_is_shown(queue: Queue) -> None:
    for role, ends in ((Role.APPLIER, 5), (Role.CAPTURE, 200)):
        queue.write(certificates.keep, "ubud", role, ends)
    queue.write(certificates.keep, "kuta", Role.CAPTURE, 7)
    assert queue.read(certificates.shown) == {"ubud": 5, "kuta": 7}
    queue.write(certificates.keep, "ubud", Role.APPLIER, 300)
    assert queue.read(certificates.shown) == {"ubud": 200, "kuta": 7}
    queue.write(certificates.keep, "ubud", Role.CAPTURE, None)
    assert queue.read(certificates.shown) == {"ubud": 300, "kuta": 7}
    queue.write(certificates.forget, "ubud")
    assert queue.read(certificates.shown) == {"kuta": 7}


def test_what_was_written_before_the_two_were_kept_apart_goes(queue: Queue) -> None:
    queue.write(state.put, certificates._name("ubud"), "3 ubud")
    assert queue.read(certificates.shown) == {"ubud": 3}
    queue.write(certificates.keep, "ubud", Role.CAPTURE, 400)
    assert queue.read(certificates.shown) == {"ubud": 400}
