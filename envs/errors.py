"""The one exception for faults that the user can mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A fault of the user's input: says what was got, what was expected and how to mend it.

    The command line prints the message without a traceback and exits with code 2.
    """


def did_you_mean(got: str, known: Iterable[str], most: int = 3) -> str:
    """A sentence that names the close matches of `got` among `known`, or '' where there are none."""
    close = difflib.get_close_matches(got, list(known), n=most, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(name) for name in close)}?" if close else ""
