"""How many processor cores this process may use."""

import os


def cores() -> int:
    """At least 1; fewer than the machine has where the process is confined to some (taskset, containers)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
