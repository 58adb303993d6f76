"""Samples a second that the world `scenes` makes on one core: drawn, composited and encoded, as they would be written.

    python benchmarks/scenes.py [--count 200] [--size 256] [--json]

Processor time of this one process is counted, so that what else the machine does matters little. The first samples fill the
cache of rendered drawings and are not timed.
"""

import argparse
import json
import platform
import time

from lt.datagen.sources.scenes import ScenesSource

WARM_UP = 200


def measure(count: int, size: int) -> dict[str, float | int | str]:
    """Time `count` scenes of `size` pixels in this process."""
    source = ScenesSource(WARM_UP + count, size=size)
    for number in range(WARM_UP):
        source.sample(number).size()
    drawing = encoding = encoded = 0.0
    for number in range(WARM_UP, WARM_UP + count):
        start = time.process_time()
        sample = source.sample(number)
        drawn = time.process_time()
        encoded += sample.size()
        encoding += time.process_time() - drawn
        drawing += drawn - start
    return {
        "samples_per_second": round(count / (drawing + encoding), 1),
        "drawing_ms": round(1000 * drawing / count, 2),
        "encoding_ms": round(1000 * encoding / count, 2),
        "kilobytes": round(encoded / count / 1000, 1),
        "count": count,
        "size": size,
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    result = measure(chosen.count, chosen.size)
    if chosen.json:
        print(json.dumps(result))
        return
    print(f"scenes, {chosen.size} px, one core: {result['samples_per_second']} samples/s")
    print(
        f"  drawing {result['drawing_ms']} ms, encoding {result['encoding_ms']} ms, {result['kilobytes']} kB a sample"
    )


if __name__ == "__main__":
    main()
