"""`python -m services.capture`: sends what is changed at this outlet to the hub."""

from __future__ import annotations

import sys

from services.capture.service import Service
from services.kernel.settings import OutletSettings, load_or_exit
from services.kernel.telemetry import run_service


def main() -> int:
    settings = load_or_exit(OutletSettings)
    return run_service("capture", lambda stop, nudge: Service(settings, stop, nudge).run())


if __name__ == "__main__":
    sys.exit(main())
