"""Cameras and streams on the network: the newest frame comes next; they break off, stall, and come back."""
import http.server
import itertools
import os
import re
import signal
import socket
import subprocess
import threading
import time
from contextlib import closing

import cv2
import pytest

from inference import containers
from inference.stream import VideoSegmenter
from inference.threads import Newest
from tests.films import opened, picture, times_of, write_video
from tests.main.program import Program

SIZE = (64, 96)
RTSP = """
import sys, gi
gi.require_version("Gst", "1.0"); gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
server, factory = GstRtspServer.RTSPServer(), GstRtspServer.RTSPMediaFactory()
server.set_address("127.0.0.1"); server.set_service(sys.argv[1])
factory.set_launch("( videotestsrc is-live=1 ! video/x-raw,width=96,height=64,framerate=20/1 ! "
                   "x264enc tune=zerolatency key-int-max=10 ! rtph264pay name=pay0 )")
factory.set_shared(True)
server.get_mount_points().add_factory("/street", factory)
if not server.attach(None) or not Gst.ElementFactory.find("x264enc"):
    sys.exit(3)
print("ready", flush=True)
GLib.MainLoop().run()
"""


class Camera(http.server.ThreadingHTTPServer):
    """A network camera: Motion JPEG over HTTP. Each connection gets the next number of frames of `counts`, and then
    ends, or stalls where `stalls`; there is none for more connections."""

    allow_reuse_address = daemon_threads = True

    def __init__(self, counts: list[int], stalls: bool = False, port: int = 0):
        self.counts, self.stalls, self.sent, self.over = [*counts], stalls, 0, threading.Event()
        super().__init__(("127.0.0.1", port), Sender)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/street"

    def close(self) -> None:
        self.over.set()
        self.shutdown()
        self.server_close()


class Sender(http.server.BaseHTTPRequestHandler):
    server: Camera

    def do_GET(self):
        if not self.server.counts:
            return self.send_error(503)
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for i in range(self.server.counts.pop(0)):
            content = cv2.imencode(".jpg", picture(i % 20, SIZE))[1].tobytes()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(content)}\r\n\r\n"
            try:
                self.wfile.write(head.encode() + content + b"\r\n")
            except OSError:
                return
            self.server.sent += 1
            if self.server.over.wait(0.04):
                return
        if self.server.stalls:
            self.server.over.wait()

    def log_message(self, *_):
        pass


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """Little of it: connects again at once."""
    monkeypatch.setattr(containers, "BACK_OFF", (0.1, 0.2, 0.4))
    monkeypatch.setattr(containers, "TIMEOUT", 1.5)


def slow_down(monkeypatch, seconds: float) -> None:
    usual = VideoSegmenter.labels_of
    monkeypatch.setattr(VideoSegmenter, "labels_of", lambda *x, **y: time.sleep(seconds) or usual(*x, **y))


LATENCY = (r"from a frame's arrival to its labels: median (\d+) ms, 95th percentile (\d+) ms; (\d+) frames that came "
           "meanwhile were dropped")


def test_frames_come_and_those_that_wait_are_dropped(call, tmp_path, monkeypatch):
    slow_down(monkeypatch, 0.25)
    with closing(Camera([75])) as camera:
        status, err, out = call("--video", camera.address, "--output", tmp_path / "a.mp4", tmp_path / "labels")
    assert (status, err) == (0, [])
    count = len(opened(tmp_path / "a.mp4")[2])
    median, late, dropped = map(int, re.search(LATENCY, out).groups())
    assert 3 <= count == len(os.listdir(tmp_path / "labels")) <= 25 and count + dropped == 75
    assert 250 <= median <= late < 3000  # a queue of frames would grow to 18 s
    times = times_of(tmp_path / "a.mp4")
    # Shown when they came: 75 frames at their rate take three seconds, those written would take less than one.
    assert times == sorted({*times}) and times[-1] - times[0] > 1.5
    assert "stopped sending after 75 frames" in out


def test_stream_that_breaks_off_is_connected_to_again(call, tmp_path):
    with closing(Camera([12, 13, 14])) as camera:
        status, err, out = call("--video", camera.address, "--output", tmp_path / "a.mp4")
    assert (status, err) == (0, [])
    assert f"{camera.address}: broke off after 12 frames; connecting again in 0.1 s" in out
    assert "broke off after 25 frames; connecting again in 0.1 s" in out
    assert "broke off after 39 frames; connecting again in 0.4 s" in out  # the last attempt
    assert "stopped sending after 39 frames" in out
    count, dropped = len(opened(tmp_path / "a.mp4")[2]), int(re.search(LATENCY, out)[3])
    assert count + dropped == 39 and count > 5


def test_stream_that_stalls_ends_with_the_frames_until_then(call, tmp_path):
    with closing(Camera([15], stalls=True)) as camera:
        status, err, out = call("--video", camera.address, "--output", tmp_path / "a.mp4")
    assert (status, err) == (0, []) and "stopped sending after 15 frames" in out
    assert 1 < len(opened(tmp_path / "a.mp4")[2]) <= 15


def test_server_that_dies_and_returns(call, tmp_path, monkeypatch):
    monkeypatch.setattr(containers, "BACK_OFF", (0.5,) * 20)
    camera = Camera([1000])
    port = camera.server_address[1]
    later = []

    def restart():
        while camera.sent < 10:
            time.sleep(0.01)
        camera.close()
        time.sleep(3)
        monkeypatch.setattr(containers, "BACK_OFF", (0.1,))
        later.append(Camera([10], port=port))

    thread = threading.Thread(target=restart)
    thread.start()
    status, err, out = call("--video", camera.address, "--output", tmp_path / "a.mp4")
    thread.join()
    later[0].close()
    assert (status, err) == (0, []) and len(re.findall("connecting again in 0.5 s", out)) >= 2
    times = times_of(tmp_path / "a.mp4")
    assert max(y - x for x, y in itertools.pairwise(times)) > 1 and times[-1] < 20  # the pause is in the video


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["stalls", "is connected to again"])
def test_interrupt_while_nothing_comes(weights, tmp_path, ends):
    with closing(Camera([15], stalls=ends == "stalls")) as camera:
        words = ["--weights-dir", str(weights), "--resume", "1", "--device", "cpu", "--engine", "eager", "--video"]
        words += [camera.address, "--output", str(tmp_path / "a.mp4")]
        program = Program(words, tmp_path / "run", launcher=())
        program.wait_until(lambda: camera.sent == 15 and "street: 96 x 64 pixels" in program.output)
        time.sleep(1.5)
        began = time.monotonic()
        program.signal(signal.SIGINT)
        assert (program.status(), program.errors) == (130, "")
        assert time.monotonic() - began < 6
    assert 0 < len(opened(tmp_path / "a.mp4")[2]) <= 15
    assert "stopped by signal 2; the frames segmented until then are written" in program.output


@pytest.mark.parametrize("scheme, path", [("http", "street"), ("rtsp", "street"), ("http", "nothing")])
def test_address_that_nobody_serves(call, tmp_path, scheme, path):
    with closing(Camera([])) as camera:
        port = camera.server_address[1]
        if path == "street":
            camera.close()
        address = f"{scheme}://127.0.0.1:{port}/{path}"
        status, err, _ = call("--video", address, "--output", tmp_path / "a.mp4")
        if path == "street":
            camera.close = lambda: None
    assert (status, len(err)) == (2, 1) and os.listdir(tmp_path) == []
    assert re.fullmatch(rf"error: {address}: cannot be opened \(.+\); check the address, and that it sends", err[0])


@pytest.mark.slow
def test_rtsp(call, tmp_path, monkeypatch):
    probe = 'import gi; gi.require_version("GstRtspServer", "1.0")'
    if not os.path.exists("/usr/bin/python3") or subprocess.run(["/usr/bin/python3", "-c", probe]).returncode:
        pytest.skip("no GStreamer RTSP server here (gir1.2-gst-rtsp-server-1.0)")
    slow_down(monkeypatch, 0.2)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["/usr/bin/python3", "-c", RTSP, str(port)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        if server.stdout.readline() != "ready\n":
            pytest.skip("no H.264 encoder of GStreamer here (gstreamer1.0-plugins-ugly)")
        killer = threading.Timer(8, server.kill)
        killer.start()
        address = f"rtsp://127.0.0.1:{port}/street"
        status, err, out = call("--video", address, "--output", tmp_path / "a.mp4")
        killer.join()
    finally:
        server.kill()
        server.wait()
    assert (status, err) == (0, []), err
    _, late, dropped = map(int, re.search(LATENCY, out).groups())
    assert dropped > 5 and late < 3000 and len(opened(tmp_path / "a.mp4")[2]) > 5
    assert f"{address}: 96 x 64 pixels, 20 frames a second" in out and "connecting again" in out


@pytest.fixture
def never():
    return lambda: False


def slowly(items, seconds=0.02, error=None):
    for item in items:
        time.sleep(seconds)
        yield item
    if error:
        raise error


def test_newest_drops_what_nobody_asked_for(never):
    with closing(Newest(slowly(range(40)), never)) as items:
        found = [x for x in items if not time.sleep(0.1)]
    assert found == sorted({*found}) and found[-1] == 39 and 4 <= len(found) <= 20
    assert items.dropped == 40 - len(found)


def test_newest_gives_all_to_who_is_fast(never):
    assert list(Newest(slowly(range(10)), never)) == [*range(10)]
    assert list(Newest([], never)) == []


def test_error_comes_behind_the_newest_item(never):
    items = Newest(slowly(range(3), error=OSError("of the camera")), never)
    time.sleep(0.3)
    assert next(items) == 2 and items.dropped == 2
    for _ in "again":
        with pytest.raises(OSError, match="of the camera"):
            next(items)


def test_newest_stops_when_asked_and_its_thread_ends(never):
    stop, before = threading.Event(), threading.active_count()
    items = Newest(slowly(iter(int, 1)), stop.is_set)
    next(items)
    stop.set()
    with pytest.raises(StopIteration):
        next(items)
    items.close()
    assert threading.active_count() == before
    stalled = Newest(slowly([1], 0.6), (waited := threading.Event()).is_set)
    threading.Timer(0.1, waited.set).start()
    began = time.monotonic()
    assert next(stalled, None) is None and time.monotonic() - began < 0.5
    stalled.close()


def test_file_drops_nothing(call, tmp_path, monkeypatch):
    slow_down(monkeypatch, 0.05)
    source = write_video(tmp_path / "in.mp4", 12)
    assert "dropped" not in call("--video", source, "--output", tmp_path / "a.mp4")[2]
    assert len(opened(tmp_path / "a.mp4")[2]) == 12
