"""Threads and their queues: order, errors, early ends, and memory that stays flat."""
import threading
import time
import tracemalloc
from contextlib import closing

import numpy as np
import pytest

from utils.pipeline import WriteBehind, read_ahead


@pytest.fixture(autouse=True)
def every_thread_ends():
    before = set(threading.enumerate())
    yield
    assert not set(threading.enumerate()) - before


def failing(count: int):
    yield from range(count)
    raise OSError("the disk")


def test_everything_arrives_in_order():
    written = []
    with WriteBehind(written.append, depth=2) as behind:
        for item in read_ahead(range(500), depth=3):
            behind.put(item)
    assert written == list(range(500))


def test_nothing_arrives_of_nothing():
    assert list(read_ahead([])) == []
    with WriteBehind(print):
        pass


def test_reader_stays_at_most_depth_ahead():
    taken = []
    items = read_ahead((taken.append(i) for i in range(100)), depth=4)
    with closing(items):
        next(items)
        time.sleep(0.1)
        assert len(taken) <= 1 + 4 + 1  # given out, queued, and the one in the reader's hand


def test_reading_error_comes_behind_the_items_before_it():
    items = read_ahead(failing(3))
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="the disk"):
        next(items)


def test_early_stop_ends_the_reader_and_closes_what_it_reads():
    closed = []

    def endless():
        try:
            while True:
                yield 0
        finally:
            closed.append(True)

    with closing(read_ahead(endless(), depth=2)) as items:
        next(items)
    assert closed == [True]


def test_error_of_the_caller_stops_reader_and_drops_what_was_to_be_written():
    written = []

    def slowly(item):
        time.sleep(0.02)
        written.append(item)

    began = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        with closing(read_ahead(iter(int, 1))) as items, WriteBehind(slowly, depth=50) as behind:
            for number, _ in enumerate(items):
                behind.put(number)
                if number == 40:
                    raise ZeroDivisionError
    assert time.monotonic() - began < 0.5 and len(written) < 40


def test_writing_error_reaches_the_caller_at_the_next_put_and_nobody_waits_for_room():
    def write(item):
        if item == 3:
            raise OSError("the disk")

    with pytest.raises(OSError, match="the disk"):
        with WriteBehind(write, depth=1) as behind:
            for item in range(10_000):
                behind.put(item)
    assert item < 9_999


def test_writing_error_of_the_last_item_is_raised_too():
    with pytest.raises(ZeroDivisionError):
        with WriteBehind(lambda item: 1 / item) as behind:
            behind.put(0)


def test_memory_stays_flat_over_thousands_of_frames():
    frame = 16 * 16 * 3

    def frames(count):
        for i in range(count):
            yield np.full((16, 16, 3), i % 256, np.uint8)

    def peak_over(count):
        tracemalloc.start()
        try:
            with WriteBehind(lambda item: None) as behind:
                for item in read_ahead(frames(count)):
                    behind.put(item.copy())
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak_over(100)
    assert peak_over(10_000) < peak_over(100) + 20 * frame
