"""How the program ends when it is asked to: by Ctrl-C, which a terminal sends to all its processes, or by SIGTERM.

The first process alone decides what is saved, and ends the others; they pay no attention.
"""
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def unwinding() -> Iterator[None]:
    """Inside, a signal goes up as an exception, so that what is open is closed and what is half-written removed.

    SIGINT raises KeyboardInterrupt, SIGTERM SystemExit(143).
    """
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: lambda number, _: sys.exit(128 + number)}
    before = {number: signal.signal(number, handlers[number]) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def starting_processes() -> Iterator[None]:
    """Inside, signals wait, so that nobody is interrupted half-made; processes that are started here have them blocked."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals go to the main thread
        return
    waiting: list[int] = []
    before = {number: signal.signal(number, lambda number, _: waiting.append(number)) for number in SIGNALS}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)
        for held in waiting:
            signal.raise_signal(held)


def leave_to_parent(_: int = 0) -> None:
    """In a loader process: let the first SIGTERM pass, which may have gone to all processes, and end by a second."""
    signal.signal(signal.SIGTERM, lambda number, _: signal.signal(number, signal.SIG_DFL))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def end_with_parent() -> None:
    """In a process of a pool, which would wait for work for ever: end when the process that started it is killed."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
