"""`python -m services.kernel.probe`: asks this machine's own /readyz, as a container's health check does; in a moment, importing nothing.

Exit code 0: ready. 1: not, or nobody answers; what was said goes to standard output, where `docker inspect` shows it.
"""

from __future__ import annotations

import http.client
import os
import sys

VARIABLE = "SUBAK_METRICS_LISTEN"

ANSWER_SECONDS = 3.0
"""A service that does not answer by then is not well; less than what a container's health check is given."""

EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""A service that listens on all addresses is asked on this machine's own."""


def probe(listen: str) -> tuple[bool, str]:
    """Whether the service that serves its health at `listen` is ready, and what it says."""
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    connection = None
    try:
        connection = http.client.HTTPConnection(EVERYWHERE.get(host, host), int(port), timeout=ANSWER_SECONDS)
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        return answer.status == http.client.OK, answer.read().decode("utf-8", "replace").strip()
    except (OSError, ValueError, http.client.HTTPException) as error:
        return False, f"{listen} does not answer: {error}"
    finally:
        if connection:
            connection.close()


def main() -> int:
    listen = os.environ.get(VARIABLE, "")
    if not listen:
        print(f"{VARIABLE} is not set: nobody can be asked.")
        return 1
    ready, said = probe(listen)
    print(said)
    return 0 if ready else 1


if __name__ == "__main__":
    sys.exit(main())
