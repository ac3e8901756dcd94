"""Name what this machine lacks, before an installation or a long job finds out the hard way.

Plain standard library: it runs before anything is installed.

    python3 jobs/preflight.py               before the installation
    .venv/bin/python jobs/preflight.py --installed    after it
"""

import argparse
import ctypes.util
import importlib.util
import shutil
import sys

_NEEDED_GB = 8


def before_installation() -> list[str]:
    """What would stop the installation."""
    faults = []
    if sys.version_info < (3, 11):  # noqa: UP036  # runs under whatever python is there
        faults.append(f"Python {sys.version.split()[0]} is too old: 3.11 or newer is needed")
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        faults.append("Python has no venv module (Debian: apt-get install python3-venv)")
    free_gb = shutil.disk_usage(".").free / 1e9
    if free_gb < _NEEDED_GB:
        faults.append(f"{free_gb:.1f} GB of disk are free here, about {_NEEDED_GB} GB are needed")
    if sys.platform == "linux":
        for library, package in (("GL", "libgl1"), ("glib-2.0", "libglib2.0-0")):
            if ctypes.util.find_library(library) is None:
                faults.append(
                    f"opencv-python links lib{library}, which is not here "
                    f"(Debian: apt-get install {package})"
                )
    return faults


def after_installation() -> list[str]:
    """What would stop the first job."""
    faults = []
    for module in ("cv2", "av", "torch", "ray", "mlflow", "ai_edge_litert.interpreter"):
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever it is, the user has to read it
            faults.append(f"cannot import {module}: {type(error).__name__}: {error}")
    return faults


def main() -> int:
    """Print each fault on a line; the exit code is their number, at most 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--installed", action="store_true", help="check the installed packages")
    faults = after_installation() if parser.parse_args().installed else before_installation()
    for fault in faults:
        print(f"preflight: {fault}", file=sys.stderr)
    if not shutil.which("npm"):
        print("preflight: npm is not here; the `ssd` detector's weights need it, others do not")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
