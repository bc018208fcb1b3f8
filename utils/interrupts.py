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

    SIGINT raises KeyboardInterrupt, SIGTERM SystemExit(143). They go to the main thread alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: lambda number, _: sys.exit(128 + number)}
    before = {number: signal.signal(number, handlers[number]) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def starting_processes() -> Iterator[None]:
    """Inside, signals wait, so that nothing is interrupted half-made; processes that are started here have them blocked.

    Among them is SIGCHLD: torch answers the death of a loader process with an error at whatever place it interrupts.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []

    def wait(number: int, _: object) -> None:
        waiting.append(number)

    before = {number: signal.signal(number, wait) for number in (*SIGNALS, signal.SIGCHLD)}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            if signal.getsignal(number) is wait:  # torch's own for SIGCHLD, set meanwhile, stays
                signal.signal(number, handler)
        for held in waiting:
            signal.raise_signal(held)


def end_by_parent(_: int = 0) -> None:
    """In a loader process: end by the SIGTERM of the process that started it, not by one that went to all of the program."""
    # Errors of the data travel with the items; what a helper thread has to say once nobody takes them any more is noise.
    sys.excepthook = lambda *_: None
    parent = os.getppid()

    def wait() -> None:
        while True:
            sender = signal.sigwaitinfo({signal.SIGTERM}).si_pid  # blocked since the process was started
            if sender == parent or os.getppid() != parent:
                os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def end_with_parent() -> None:
    """In a process of a pool, which would wait for work for ever: end when the process that started it is killed."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
