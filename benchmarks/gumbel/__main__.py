"""`python -m benchmarks.gumbel`."""

from __future__ import annotations

import sys

from benchmarks.gumbel.page import main

if __name__ == "__main__":
    main(sys.argv[1:])
