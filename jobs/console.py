"""What every job does around its one call: plain log lines, and an error as a sentence."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable

# Read when these packages are imported; whoever has set one knows why.
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "MPLBACKEND": "Agg",
}
for _name, _value in _QUIET.items():
    os.environ.setdefault(_name, _value)


def run(main: Callable[[], int]) -> int:
    """Run a job's main function.

    An error that raygait raises on purpose, or one of the file system, ends as one sentence on
    stderr and exit code 1; any other is a defect and keeps its stack trace.
    """
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("raygait").setLevel(logging.INFO)
    from raygait.errors import RaygaitError

    # A cluster stops a job by SIGTERM; as an exit, it still closes what is open.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    try:
        return main()
    except (RaygaitError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
