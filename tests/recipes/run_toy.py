"""`lt` with the toy system in its registry: for tests in processes of their own."""

import atexit
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))


def _say_if_connected() -> None:
    import torch

    if torch.distributed.is_initialized():
        print("still connected", file=sys.stderr)


if __name__ == "__main__":
    from lt.cli.app import main
    from lt.recipes.registry import SYSTEMS

    SYSTEMS["toy"] = "toy"
    atexit.register(_say_if_connected)
    main()
