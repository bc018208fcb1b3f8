"""Reading ahead and writing behind, each in a thread, connected to the caller's by a bounded queue."""
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Generic, TypeVar

DEPTH = 4  # items in the queue between two threads
Item = TypeVar("Item")


class Channel(Generic[Item]):
    """A queue of at most `depth` items from one thread to another; either of them may end it."""

    def __init__(self, depth: int):
        self._items: deque[Item] = deque()
        self._depth = depth
        self._changed = threading.Condition()
        self._ended = self._closed = False
        self._error: BaseException | None = None

    def put(self, item: Item) -> bool:
        """Wait for space, then queue the item. Returns False, without waiting, once the reader has closed it."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._items) < self._depth)
            if self._closed:
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def end(self, error: BaseException | None = None) -> None:
        """Put nothing more. The reader gets what is queued, then the error, if any."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def close(self) -> None:
        """Take nothing more; what is queued is dropped."""
        with self._changed:
            self._closed = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[Item]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._ended or self._items)
                if not self._items:
                    break
                item = self._items.popleft()
                self._changed.notify_all()
            yield item
        if self._error is not None:
            raise self._error


def read_ahead(items: Iterable[Item], depth: int = DEPTH) -> Generator[Item, None, None]:
    """Yield the items in order, read by another thread up to `depth` items ahead.

    An error of `items` is raised here, after the items before it. Closing the iterator early waits until the thread has
    read its current item.
    """
    channel: Channel[Item] = Channel(depth)

    def fill() -> None:
        try:
            for item in items:
                if not channel.put(item):
                    break
        except BaseException as error:  # of any kind: the caller handles it
            channel.end(error)
        else:
            channel.end()

    thread = threading.Thread(target=fill, name="read ahead")
    thread.start()
    try:
        yield from channel
    finally:
        channel.close()
        thread.join()


class WriteBehind(Generic[Item]):
    """Calls `write(item)` for every item that is put, in order, in another thread.

    with WriteBehind(write) as behind:
        behind.put(item)

    The end of the block waits until everything is written; an error in the block drops what is queued. An error of
    `write` is raised by the next `put`, or at the end of the block.
    """

    def __init__(self, write: Callable[[Item], object], depth: int = DEPTH):
        self._write = write
        self._channel: Channel[Item] = Channel(depth)
        self._thread = threading.Thread(target=self._work, name="write behind")
        self._error: BaseException | None = None

    def put(self, item: Item) -> None:
        if not self._channel.put(item):
            raise self._error or ValueError("this writer has ended")

    def __enter__(self) -> "WriteBehind[Item]":
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None:
            self._channel.end()
        else:
            self._channel.close()
        try:
            self._thread.join()
        except BaseException:  # an interrupt: `write` must not be running afterwards
            self._channel.close()
            self._thread.join()
            raise
        if kind is None and self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            for item in self._channel:
                self._write(item)
        except BaseException as error:  # of any kind: the caller handles it
            self._error = error
            self._channel.close()
