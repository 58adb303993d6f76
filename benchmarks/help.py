"""How long `lt --help` takes against `python -c "import typer, rich"`: whole processes, in turn, medians. Goal: at most 1.5x."""

import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNS = 15


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    ours = [str(Path(sys.executable).with_name("lt")), "--help"]
    floor = [sys.executable, "-c", "import typer, rich"]
    pairs = [(seconds(ours), seconds(floor)) for _ in range(RUNS + 1)][1:]  # the first fills caches
    help_time, floor_time = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"lt --help {help_time * 1e3:.0f} ms, import typer, rich {floor_time * 1e3:.0f} ms")
    print(f"ratio {statistics.median(a / b for a, b in pairs):.2f} (goal <= 1.5)")


if __name__ == "__main__":
    main()
