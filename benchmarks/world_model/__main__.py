"""`python -m benchmarks.world_model`."""

from __future__ import annotations

import sys

from benchmarks.world_model.prediction import main

if __name__ == "__main__":
    sys.exit(main())
