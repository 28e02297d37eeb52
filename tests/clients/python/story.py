"""What a client program and the test that started it (tests/clients/main.rs) tell each other.

The program prints lines: `library NAME VERSION`, then `ready` when everything it tried was as it should be, then `acked N` or `error N TEXT` for
each round of writes, `stale TEXT` where a read did not show the write that was acknowledged just before it, and `wrong TEXT` for what must
never happen. When its standard input ends it stops writing, tries everything again,
reads all that was acknowledged and prints `verified COUNT`.
"""

import sys
import threading
import time

# Between two rounds: enough clients run at once.
PACE = 0.01
# Rounds that are read back at a time.
BATCH = 200

finishing = threading.Event()


def say(*words):
    print(*words, flush=True)


def expect(what, got, wanted):
    if got != wanted:
        say(f"wrong {what}: {got!r}, not {wanted!r}")


def expect_fresh(what, got, wanted):
    if got != wanted:
        say(f"stale {what}: {got!r}, not {wanted!r}")


def one_line(error):
    return " ".join(f"{type(error).__name__} {error}".split())


def listen():
    """Notices the end of standard input."""

    def read():
        sys.stdin.read()
        finishing.set()

    threading.Thread(target=read, daemon=True).start()


def keys(name, n):
    """The keys of a round: some are written one at a time, some in a pipeline, some in a transaction."""
    first = f"{{{name}}}:{n}:0"
    return [first, f"{{{name}}}:{n}:1"] if n % 5 < 2 else [first]


def deadline(seconds):
    """Counts time that has a bound: true until it is over."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() < end
