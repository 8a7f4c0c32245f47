"""For all tests."""

import os
import signal

# Side by side, one thread each: pytest-xdist starts a process for every processor. Before torch is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell that starts the tests in the background has them ignore Ctrl-C, and what is told to ignore it must go on doing
# so; the tests of Ctrl-C need the ordinary state, their child processes inherit it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
