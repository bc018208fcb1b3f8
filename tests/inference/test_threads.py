"""Threads and their queues: order, errors, early ends, and memory that stays flat."""
import threading
import time
import tracemalloc
from contextlib import closing

import cv2
import numpy as np
import pytest

from config.errors import UserError
from inference.threads import read_ahead, write_behind


@pytest.fixture(autouse=True)
def every_thread_ends():
    before = set(threading.enumerate())
    yield
    assert not set(threading.enumerate()) - before


def failing(count: int, error: BaseException | None = None):
    yield from range(count)
    raise error or OSError("the disk")


ERRORS = [OSError("the disk"), MemoryError(), KeyboardInterrupt(), SystemExit(3), GeneratorExit(), cv2.error("cv"),
          UserError("fix it")]
DIES = "reading or writing thread that dies of any exception"


def test_everything_arrives_in_order():
    written = []
    with write_behind(written.append, depth=2) as put:
        for item in read_ahead(range(500), depth=3):
            put(item)
    assert written == list(range(500))


def test_nothing_arrives_of_nothing():
    assert list(read_ahead([])) == []
    with write_behind(print):
        pass


def test_reader_stays_at_most_depth_ahead():
    taken = []
    items = read_ahead((taken.append(i) for i in range(100)), depth=4)
    with closing(items):
        next(items)
        time.sleep(0.1)
        assert len(taken) <= 1 + 4 + 1  # given out, queued, and the one in the reader's hand


@pytest.mark.tried("Video", DIES, "reaches the caller at once, both threads end")
@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_reading_error_comes_behind_the_items_before_it(error):
    items = read_ahead(failing(3, error))
    assert [next(items) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(type(error)) as raised:
        next(items)
    assert raised.value is error


@pytest.mark.tried("Video", DIES, "reaches the caller at once, both threads end")
@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize("other", ERRORS[:2], ids=repr)
def test_both_threads_die(error, other):
    def write(item):
        raise other

    began = time.monotonic()
    raising, ahead = pytest.raises((type(error), type(other))), closing(read_ahead(failing(3, error)))
    with raising, ahead as items, write_behind(write) as put:
        for item in items:
            put(item)
    assert time.monotonic() - began < 5


@pytest.mark.tried("Video", DIES, "reaches the caller at once, both threads end")
def test_nothing_is_put_after_the_end():
    with write_behind(print) as put:
        pass
    with pytest.raises(RuntimeError, match="after shutdown"):
        put(1)


@pytest.mark.tried("Video", "early end of an endless source", "thread and source end")
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


@pytest.mark.tried("Video", "error between reading and writing", "both threads end, what was queued is dropped")
def test_error_of_the_caller_stops_reader_and_drops_what_was_to_be_written():
    written = []

    def slowly(item):
        time.sleep(0.02)
        written.append(item)

    began = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        with closing(read_ahead(iter(int, 1))) as items, write_behind(slowly, depth=50) as put:
            for number, _ in enumerate(items):
                put(number)
                if number == 40:
                    raise ZeroDivisionError
    assert time.monotonic() - began < 0.5 and len(written) < 40


@pytest.mark.tried("Video", DIES, "reaches the caller at once, both threads end")
@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_writing_error_reaches_the_caller_at_the_next_put_and_nobody_waits_for_room(error):
    def write(item):
        if item == 3:
            raise error

    with pytest.raises(type(error)):
        with write_behind(write, depth=1) as put:
            for item in range(10_000):
                put(item)
    assert item < 9_999


@pytest.mark.tried("Video", DIES, "reaches the caller at once, both threads end")
def test_writing_error_of_the_last_item_is_raised_too():
    with pytest.raises(ZeroDivisionError):
        with write_behind(lambda item: 1 / item) as put:
            put(0)


@pytest.mark.tried("Video", "10,000 frames through both threads' queues", "memory as after 100")
def test_memory_stays_flat_over_thousands_of_frames():
    frame = 16 * 16 * 3

    def frames(count):
        for i in range(count):
            yield np.full((16, 16, 3), i % 256, np.uint8)

    def peak_over(count):
        tracemalloc.start()
        try:
            with write_behind(lambda item: None) as put:
                for item in read_ahead(frames(count)):
                    put(item.copy())
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak_over(100)
    assert peak_over(10_000) < peak_over(100) + 20 * frame
