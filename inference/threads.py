"""Reading ahead and writing behind, each in a thread, at most a few items before or behind the caller's."""
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

DEPTH = 4  # items that wait between two threads
LAST_READ = 2.0  # seconds that closing waits for a camera or a stream to send an item, or to fail
Item = TypeVar("Item")


def read_ahead(items: Iterable[Item], depth: int = DEPTH) -> Generator[Item, None, None]:
    """Yield the items in order, read by another thread up to `depth` items ahead.

    An error of `items` is raised here, after the items before it. Closing the iterator early waits until the thread has
    read its current item.
    """
    source, end = iter(items), object()
    pool = ThreadPoolExecutor(1, "read ahead")
    try:
        ahead: deque[Future[Any]] = deque(pool.submit(next, source, end) for _ in range(depth))
        while (item := ahead.popleft().result()) is not end:
            ahead.append(pool.submit(next, source, end))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def write_behind(write: Callable[..., object], depth: int = DEPTH) -> Iterator[Callable[..., None]]:
    """Yield a function that calls `write` with its arguments in another thread, in order; it waits for space.

    with write_behind(write) as put:
        put(item)

    The end of the block waits until everything is written; an error in the block drops what is queued. An error of
    `write` is raised by the next `put`, or at the end of the block; the items queued behind it may still be written.
    """
    pool, queue = ThreadPoolExecutor(1, "write behind"), deque[Future]()

    def put(*item: Any) -> None:
        while len(queue) > depth or (queue and queue[0].done()):
            queue.popleft().result()
        queue.append(pool.submit(write, *item))

    try:
        yield put
        while queue:
            queue.popleft().result()
    finally:  # also after an interrupt: `write` must not be running afterwards
        pool.shutdown(cancel_futures=True)


class Newest(Iterator[Item]):
    """The newest of `items` at each step; another thread reads on meanwhile, and those that nobody asked for in time
    are `dropped`, their number. It ends with `items`, whose error is raised, or where `stop` is true."""

    def __init__(self, items: Iterable[Item], stop: Callable[[], bool]):
        self.dropped, self._stop, self._closed = 0, stop, False
        self._changed, self._waiting = threading.Condition(), deque[Item](maxlen=1)
        self._end: BaseException | None = None
        self._thread = threading.Thread(target=self._read, args=(iter(items),), name="read ahead", daemon=True)
        self._thread.start()

    def __next__(self) -> Item:
        with self._changed:
            while not (self._waiting or self._end or self._stop()):
                self._changed.wait(0.2)
            if self._waiting and not self._stop():
                return self._waiting.popleft()
        raise self._end or StopIteration

    def close(self) -> None:
        """Stop reading; waits for an item that is being read, for a while: a stream may stall."""
        self._closed = True
        self._thread.join(timeout=LAST_READ)

    def _read(self, items: Iterator[Item]) -> None:
        try:
            while not self._closed:
                item = next(items)
                with self._changed:
                    self.dropped += len(self._waiting)
                    self._waiting.append(item)
                    self._changed.notify()
        except BaseException as error:  # of any kind, the end among them: the caller handles it
            with self._changed:
                self._end = error
                self._changed.notify()
