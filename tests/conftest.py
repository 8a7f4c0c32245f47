"""For all tests."""

import signal

# A shell that starts the tests in the background has them ignore Ctrl-C, and what is told to ignore it must go on doing
# so; the tests of Ctrl-C need the ordinary state, their child processes inherit it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
