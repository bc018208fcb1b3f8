"""How the program ends on SIGINT (Ctrl-C, which a terminal sends to all its processes), SIGTERM and SIGHUP (of a
terminal that is closed).

The first process alone decides what is saved, and ends the others; they ignore these signals.
"""
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(Exception):
    """The program ends because of a signal, with everything saved. `status` is the exit status."""

    def __init__(self, status: int):
        super().__init__(f"stopped by signal {status - 128}")
        self.status = status


class Interrupt(contextlib.ExitStack):
    """A context in which the first of SIGNALS is only noted, as `number`; a second one ends the program at once.

    While `all_saved` is true, the first one raises Stopped at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.number, self.all_saved = 0, False

    @property
    def status(self) -> int:
        """The exit status: 130, 143 or 129, 0 without a signal."""
        return 128 + self.number if self.number else 0

    def __enter__(self) -> Self:
        self.enter_context(_handled_by(self._note))
        return self

    def _note(self, number: int, _: object) -> None:
        if self.number:
            _unwind(number, _)
        self.number = number
        if self.all_saved:
            raise Stopped(self.status)


def unwinding() -> contextlib.AbstractContextManager[bool]:
    """A context in which a signal raises, in the main thread alone: SIGINT KeyboardInterrupt, the others SystemExit.

    What is open is closed, and what is half-written removed.
    """
    return _handled_by(_unwind)


def _unwind(number: int, _: object) -> NoReturn:
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)


@contextlib.contextmanager
def _handled_by(handler: Callable[[int, Any], object], *others: int) -> Iterator[bool]:
    """Handle SIGNALS and `others`, in the main thread alone; yields whether this is it."""
    main = threading.current_thread() is threading.main_thread()
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # by nohup, and to stay so
    numbers = [each for each in (*SIGNALS, *others) if not (ignored and each == signal.SIGHUP)]
    before = {number: signal.signal(number, handler) for number in numbers} if main else {}
    try:
        yield main
    finally:
        for number, previous in before.items():
            if signal.getsignal(number) == handler:  # torch may have set its own for SIGCHLD
                signal.signal(number, previous)


@contextlib.contextmanager
def starting_processes() -> Iterator[None]:
    """Delay signals while the block starts processes, which inherit SIGNALS blocked.

    SIGCHLD is delayed too: when a loader process dies, torch's handler raises wherever it interrupts.
    """
    waiting: list[int] = []
    try:
        with _handled_by(lambda number, _: waiting.append(number), signal.SIGCHLD) as main:
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS if main else ())
            try:
                yield
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    finally:
        for number in waiting:
            signal.raise_signal(number)


def end_by_parent(_: int = 0) -> None:
    """In a loader process: end on SIGTERM from the process that started it, not on one sent to the whole program."""
    # Errors of the data travel with the items; a helper thread's errors after the last item are noise.
    sys.excepthook = lambda *_: None
    parent = os.getppid()

    def wait() -> None:
        while True:
            sender = signal.sigwaitinfo({signal.SIGTERM}).si_pid  # blocked since the process was started
            if sender == parent or os.getppid() != parent:
                os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def end_with_parent() -> None:
    """In a process of a pool: end when the process that started it is killed, instead of waiting for work for ever."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
