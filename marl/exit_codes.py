"""How the commands beside run.py end: their text on stdout, or what went wrong on stderr, and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Callable

from envs.errors import EnvFailure
from marl.errors import RunFailed, UserError


def main(work: Callable[[], str]) -> int:
    """Print what `work` returns; 0 done, 2 the user's input, 1 the environment or the run failed, 130 Ctrl-C."""
    try:
        text = work()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (RunFailed, EnvFailure) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(text)
    return 0
