"""`lt` with the toy system in its registry: for tests in processes of their own."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

if __name__ == "__main__":
    from lt.cli.app import main
    from lt.recipes.registry import SYSTEMS

    SYSTEMS.update(toy="toy", toy_players="toy_players", toy_rounds="toy_rounds")
    main()
