"""Measure every number that the repository claims: `make bench`, or a part by name.

    python -m tests.benchmarks                 all parts, one table, written to runs/bench.md;
                                               without `switches`, which takes long
    python -m tests.benchmarks codec video     some parts

Each part runs in a process of its own, so its seconds and its peak memory are its own. `theirs` is
the same work done the way public code of the field does it; where it is a printed figure instead of
a measurement beside ours, the part's docstring says so. Timings are of this machine, now: compare
ratios, not seconds.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]
_OUT = Path("runs/bench.md")
# Parts that only run by name.
_ON_DEMAND = ("switches",)


def main() -> int:
    """Run the parts one after another and print the table."""
    parts = sorted(path.stem.removeprefix("bench_") for path in _HERE.glob("bench_*.py"))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of: {', '.join(parts)}")
    wanted = parser.parse_args().parts or [part for part in parts if part not in _ON_DEMAND]
    if strangers := sorted(set(wanted) - set(parts)):
        parser.error(f"no part {', '.join(strangers)}; there are {', '.join(parts)}")
    lines = [
        f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}, "
        f"{time.strftime('%Y-%m-%d')}. Ratio: above 1 is in our favour.",
        "",
        "| part | claim | ours | theirs | ratio | s | peak MB | command |",
        "|---|---|---:|---:|---:|---:|---:|---|",
    ]
    code = 0
    for part in wanted:
        rows, seconds, peak_mb = _measure(part)
        if rows is None:
            print(f"{part}: failed", file=sys.stderr)  # noqa: T201
            code = 1
            continue
        for row in rows:
            cells = [row["part"], row["claim"], *map(_number, (row["ours"], row["theirs"]))]
            cells += [_number(row["ratio"]), f"{seconds:.0f}", f"{peak_mb:.0f}"]
            lines.append(f"| {' | '.join(map(str, cells))} | `{row['command']}` |")
        print(f"{part}: {len(rows)} rows in {seconds:.0f} s", file=sys.stderr)  # noqa: T201
    print("\n".join(lines))  # noqa: T201
    _OUT.parent.mkdir(parents=True, exist_ok=True)
    _OUT.write_text("\n".join(lines) + "\n")
    return code


def _measure(part: str) -> tuple[list[dict[str, object]] | None, float, float]:
    """Rows of a part, its seconds, and the most memory that one process of it held."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "rows.json"
        script = (
            f"import json, sys; sys.path.insert(0, {str(_HERE)!r}); import bench_{part}\n"
            f"rows = bench_{part}.measure()\n"
            f"open({str(result)!r}, 'w').write(json.dumps(rows, default=float))\n"
        )
        started = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-c", script], cwd=_ROOT, env={**os.environ, "PYTHONPATH": str(_ROOT)}
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - started
        rows = json.loads(result.read_text()) if result.exists() else None
        return rows, seconds, usage.ru_maxrss / 1024


def _number(value: object) -> str:
    if value is None:
        return ""
    number = float(str(value))
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


if __name__ == "__main__":
    sys.exit(main())
