"""Video files in and out: codecs, times, sound, the shape of pixels, rotation; and that a browser plays them."""
import http.server
import logging
import re
import shutil
import struct
import subprocess
import sys
import threading
from fractions import Fraction
from functools import partial
from urllib.parse import parse_qs, urlparse

import av
import cv2
import numpy as np
import pytest

from config.errors import UserError
from inference.video_input import open_frames
from inference.video_writer import ENDINGS, VideoFile
from tests.films import encoded, heard_at, panning, picture, times_of, write_pictures, write_video
from utils.logging import logger

SIZE = (64, 96)
FRAMES = [picture(i % 20, SIZE) for i in range(60)]
PAUSES = [0, 1 / 30, 2 / 30, 2.1, 2.1 + 1 / 24, 62.2, 62.25, 62.3]  # seconds; frames that last 2 s, and a minute


@pytest.fixture
def log(caplog, monkeypatch):
    """The log lines, as `messages`."""
    monkeypatch.setattr(logger, "propagate", True)
    caplog.set_level(logging.INFO, logger.name)
    return caplog


def copied(source, path, how=None, **part):
    """Write a video's frames again, with their times, sound and pixels."""
    frames = open_frames(str(source), **part)
    known = {"sound": frames.sound, "start": frames.start, "aspect": frames.aspect}
    with VideoFile(path, frames.fps, **known | (how or {})) as video:
        for frame in frames.timed:
            video.write(frame.image, time=frame.time, duration=frame.duration)
    return path


@pytest.mark.parametrize(
    "codec, pixels, ending",
    [("libsvtav1", "yuv420p", ".mp4"), ("libx265", "yuv420p10le", ".mp4"), ("libvpx-vp9", "yuv420p", ".webm"),
     ("prores_ks", "yuva444p10le", ".mov"), ("qtrle", "argb", ".mov"), ("libx264", "yuv422p10le", ".mkv")],
)
def test_codecs_that_are_read(tmp_path, log, codec, pixels, ending):
    frames = open_frames(str(encoded(tmp_path / f"a{ending}", FRAMES[:20], codec=codec, pixels=pixels)))
    assert (frames.fps, frames.count, frames.size, frames.live) == (30, 20, SIZE, False)
    images = list(frames)
    assert [(x.shape, x.dtype) for x in images] == [((*SIZE, 3), np.uint8)] * 20
    assert all(np.abs(x.astype(int) - y).max() < 8 for x, y in zip(images, FRAMES))
    assert log.messages == []


def test_codec_that_cannot_be_read_is_named(tmp_path):
    path = write_video(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes().replace(b"avc1", b"BRAW"))
    message = r"a.mp4: its codec, none \(BRAW / 0x\w+\), cannot be decoded; convert it: ffmpeg -i IN -c:v libx264 OUT"
    with pytest.raises(UserError, match=message):
        open_frames(str(path))


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_times_of_frames_are_kept(tmp_path, log, ending, codec):
    source = encoded(tmp_path / f"in{ending}", FRAMES[:8], times=PAUSES, origin=0.5)
    frames = open_frames(str(source))
    assert [x.time for x in frames.timed] == pytest.approx(PAUSES, abs=1e-3)
    assert times_of(copied(source, tmp_path / "out.mp4", {"codec": codec})) == pytest.approx(PAUSES, abs=1e-3)
    assert times_of(copied(source, tmp_path / "out.mkv")) == pytest.approx(PAUSES, abs=1.5e-3)  # its ticks: 1 ms
    found = times_of(copied(source, tmp_path / "out.avi"))  # which counts frames, at 0.13 a second on average
    assert len(found) == 8 and found[-1] == pytest.approx(PAUSES[-1], rel=0.3)
    assert all("out.avi: some frames are shown up to" in line for line in log.messages)


@pytest.mark.parametrize("ending", [".mp4", ".mkv"])
@pytest.mark.parametrize("codec", ["h264", "h265", "mjpeg"])
def test_last_frame_lasts_as_long_as_in_the_source(tmp_path, log, ending, codec):
    with VideoFile(tmp_path / "in.mp4", 25) as video:
        for number, frame in enumerate(FRAMES[:5]):
            video.write(frame, time=number / 25, duration=2.0 if number == 4 else 0.04)
    assert list(open_frames(str(tmp_path / "in.mp4")).timed)[-1].duration == pytest.approx(2, abs=1e-3)
    with av.open(str(copied(tmp_path / "in.mp4", tmp_path / f"out{ending}", {"codec": codec}))) as container:
        assert container.duration / 1e6 == pytest.approx(2.16, abs=2e-3)
    assert log.messages == []


@pytest.mark.parametrize("times", [[0, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 3], [0, 0.1, 0.2, 2.2], PAUSES])
@pytest.mark.parametrize("codec", ["h264", "mjpeg"])
def test_avi_of_a_variable_rate_lacks_nothing(tmp_path, log, times, codec):
    source = encoded(tmp_path / "in.mp4", FRAMES[: len(times)], times=times)
    found = [x.time for x in open_frames(str(copied(source, tmp_path / "a.avi", {"codec": codec}))).timed]
    assert found[0] == 0 and found == sorted({*found}) and len(found) == len(times)
    assert found[-1] == pytest.approx(times[-1], rel=0.3)
    assert all("s late, since .avi files have one rate" in line for line in log.messages)


@pytest.mark.parametrize("codec", ["h264", "h265"])
def test_pause_before_the_last_frames_does_not_lengthen_the_video(tmp_path, codec):
    times = [0, 0.04, 0.08, 2.0, 2.04, 2.08]
    source = encoded(tmp_path / "in.mp4", FRAMES[:6], times=times)
    with av.open(str(copied(source, tmp_path / "out.mp4", {"codec": codec}))) as container:
        assert container.duration / 1e6 == pytest.approx(2.12, abs=0.05)


def test_part_begins_and_ends_within_a_long_frame(tmp_path):
    source = encoded(tmp_path / "in.mp4", FRAMES[:4], times=[0, 0.04, 2.04, 2.08])
    late = list(open_frames(str(source), start=1).timed)
    assert [x.time for x in late] == pytest.approx([0, 1.04, 1.08], abs=1e-3)
    assert np.array_equal(late[0].image, list(open_frames(str(source)))[1])
    early = list(open_frames(str(source), end=1).timed)
    assert early[-1].time + early[-1].duration == pytest.approx(1, abs=1e-3)


def test_frames_of_a_stride_last_until_the_next(tmp_path):
    source = encoded(tmp_path / "in.mp4", FRAMES[:8])
    found = list(open_frames(str(source), stride=3).timed)
    rate = open_frames(str(source)).fps
    assert [x.duration * rate for x in found] == pytest.approx([3, 3, 2], abs=1e-2)


@pytest.mark.parametrize("settings", [{"stride": 0}, {"stride": 1.5}, {"start": -1}, {"fps": -5}])
def test_numbers_that_name_no_part(tmp_path, settings):
    with pytest.raises(UserError, match="must be"):
        open_frames(str(write_video(tmp_path / "a.mp4", 3)), **settings)


@pytest.mark.parametrize("rate", [24000 / 1001, 25, 30000 / 1001, 59.94, 120])
def test_regular_times_and_rate_are_exact(tmp_path, rate):
    write_video(tmp_path / "a.mp4", 30, rate)
    assert times_of(tmp_path / "a.mp4") == pytest.approx([i / rate for i in range(30)], abs=1e-5)
    assert open_frames(str(tmp_path / "a.mp4")).fps == pytest.approx(rate, rel=1e-6)


def test_other_rate_sets_regular_times_without_sound(tmp_path):
    frames = open_frames(str(encoded(tmp_path / "a.mp4", FRAMES[:8], times=PAUSES, sound="aac")), fps=10)
    assert [x.time for x in frames.timed] == [i / 10 for i in range(8)] and frames.sound is None


def test_video_that_was_cut_without_encoding_lacks_nothing(tmp_path, log):
    source = encoded(tmp_path / "whole.mp4", FRAMES[:30])
    with av.open(str(source)) as whole, av.open(str(tmp_path / "cut.mp4"), "w") as cut:
        stream = cut.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(video=0):
            if packet.pts is not None:
                packet.pts, packet.dts = (x - round(0.5 / packet.time_base) for x in (packet.pts, packet.dts))
                packet.stream = stream
                cut.mux(packet)
    assert len(list(open_frames(str(tmp_path / "cut.mp4")))) == 15
    assert log.messages == []


@pytest.mark.tried("Video", "MP4 and Matroska cut short", "the frames until there; a log line where a header "
                   "announces more")
@pytest.mark.parametrize("ending, found", [(".mp4", "of the 60 frames"), (".mkv", r"frames, at [\d.]+ of the 2.0 s")])
def test_video_that_ends_early_is_reported(tmp_path, log, ending, found):
    path = tmp_path / f"a{ending}"
    with VideoFile(path, 30) as video:
        for frame in panning([3] * 59):
            video.write(frame)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    count = len(list(open_frames(str(path))))
    assert 2 < count < 55 and len(log.messages) == 1
    assert log.messages[0].startswith(f"{path}: ends after {count} ")
    assert re.search(found, log.messages[0])


@pytest.mark.parametrize("sound, ending", [("aac", ".mp4"), ("libmp3lame", ".mkv"), ("libopus", ".mkv")])
@pytest.mark.parametrize("start", [0.0, 0.5])
@pytest.mark.parametrize("origin", [0.0, 0.7])
def test_sound_is_copied_in_sync(tmp_path, log, sound, ending, start, origin):
    source = encoded(tmp_path / f"in{ending}", FRAMES, sound=sound, click=1, origin=origin)
    for out in (".mp4", ".mkv"):
        assert heard_at(copied(source, tmp_path / f"a{out}", start=start)) == pytest.approx(1 - start, abs=3e-3)
    with av.open(str(source)) as before, av.open(str(tmp_path / "a.mp4")) as after:
        rest = [bytes(x) for x in after.demux(audio=0) if x.size]
        assert len(rest) > 40 and {*rest} <= {bytes(x) for x in before.demux(audio=0)}  # not encoded again
    assert log.messages == []


@pytest.mark.parametrize("sound, packet", [("aac", 1024), ("libmp3lame", 1152), ("ac3", 1536)])
@pytest.mark.parametrize("start", [0.0, 0.3, 0.5])
def test_sound_in_avi_is_in_sync_by_half_a_packet(tmp_path, log, sound, packet, start):
    """AVI tells no time for the first packet."""
    source = encoded(tmp_path / "in.mkv", FRAMES, sound=sound, click=1)
    written = heard_at(copied(source, tmp_path / "a.avi", start=start))
    assert written == pytest.approx(1 - start, abs=packet / 96_000 + 1e-3)
    copied(tmp_path / "a.avi", tmp_path / "b.mkv")
    assert heard_at(tmp_path / "b.mkv") == pytest.approx(written, abs=packet / 96_000 + 1e-3) and log.messages == []


def test_sound_ends_with_the_part(tmp_path):
    source = encoded(tmp_path / "in.mp4", FRAMES, sound="aac", click=0.5)
    path = copied(source, tmp_path / "a.mp4", end=1.0)
    with av.open(str(path)) as container:
        assert float(container.streams.audio[0].duration * container.streams.audio[0].time_base) < 1.05
    assert heard_at(path) == pytest.approx(0.5, abs=3e-3) and len(times_of(path)) == 30


def test_sound_comes_from_an_address_too(tmp_path):
    encoded(tmp_path / "a.mp4", FRAMES[:20], sound="aac")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        frames = open_frames(f"http://127.0.0.1:{server.server_address[1]}/a.mp4")
        with VideoFile(tmp_path / "out.mp4", frames.fps, **frames.kept) as video:
            for frame in frames.timed:
                video.write(frame.image, time=frame.time, duration=frame.duration)
        server.shutdown()
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio"]


def test_sound_that_the_container_does_not_take_is_dropped(tmp_path, log):
    source = encoded(tmp_path / "in.avi", FRAMES, codec="mpeg4", sound="pcm_mulaw", click=1)
    with av.open(str(copied(source, tmp_path / "a.mp4"))) as container:
        assert not container.streams.audio and len(container.streams.video) == 1
    assert log.messages == [f"{tmp_path / 'a.mp4'}: without its sound (pcm_mulaw), which .mp4 files do not take"]


@pytest.mark.parametrize("ending, codec, told", [(".ts", "aac", "aac of mpegts"), (".avi", "ac3", "ac3 of avi")])
def test_sound_that_avi_cannot_have_from_there(tmp_path, log, ending, codec, told):
    source = encoded(tmp_path / f"in{ending}", [picture(i) for i in range(20)], sound=codec)
    copied(source, tmp_path / "a.avi")
    assert log.messages == [f"{tmp_path / 'a.avi'}: without its sound ({told}), which .avi files do not take"]
    assert len(times_of(tmp_path / "a.avi")) == 20


@pytest.mark.parametrize("codec, ending", [*(("h264", x) for x in ENDINGS), ("mjpeg", ".mkv"), ("lossless", ".mp4")])
def test_pixels_keep_their_aspect(tmp_path, log, codec, ending):
    source = encoded(tmp_path / "in.mp4", FRAMES[:3], aspect=Fraction(4, 3))
    path = copied(source, tmp_path / f"a{ending}", {"codec": codec})
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).width == 96
        assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
    assert log.messages == []


def test_aspect_that_a_container_does_not_keep_is_told(tmp_path, log):
    source = encoded(tmp_path / "in.mp4", FRAMES[:3], aspect=Fraction(4, 3))
    copied(source, tmp_path / "a.mkv", {"codec": "lossless"})
    assert log.messages == [f"{tmp_path / 'a.mkv'}: its pixels are square, unlike the source's; .mp4 keeps their shape"]


@pytest.mark.parametrize("turned", [90, 180, 270])
def test_turned_frames_come_upright(tmp_path, turned):
    image = picture(0, SIZE)
    image[:20, :30] = 255  # top left
    path = encoded(tmp_path / "a.mp4", [image] * 3, turned=turned, aspect=Fraction(4, 3))
    good, upright = cv2.VideoCapture(str(path)).read()  # OpenCV turns frames, too
    frames = open_frames(str(path))
    assert good and frames.aspect == (Fraction(4, 3) if turned == 180 else Fraction(3, 4))
    assert frames.size == upright.shape[:2] == (SIZE if turned == 180 else SIZE[::-1])
    assert np.abs(next(iter(frames)).astype(int) - upright[..., ::-1]).mean() < 3
    with av.open(str(copied(path, tmp_path / "b.mp4"))) as container:
        assert next(container.decode(video=0)).rotation == 0


@pytest.mark.parametrize("matrix, turned", [
    ((-1, 0, 0, 1), np.fliplr), ((1, 0, 0, -1), np.flipud), ((-1, 0, 0, -1), lambda x: np.rot90(x, 2)),
    ((0, 1, 1, 0), lambda x: x.swapaxes(0, 1)), ((0, 1, -1, 0), lambda x: np.rot90(x, -1)), ((0, -1, 1, 0), np.rot90),
    ((0, -1, -1, 0), lambda x: np.rot90(x, 2).swapaxes(0, 1)),
])
def test_mirrored_and_turned_frames_are_shown_as_the_header_says(tmp_path, matrix, turned):
    path = encoded(tmp_path / "a.mp4", FRAMES[:2])
    plain = next(iter(open_frames(str(path))))
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 44  # the matrix of the track: a, b, u, c, d, v, x, y, w
    a, b, c, d = (x << 16 for x in matrix)
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    assert np.array_equal(next(iter(open_frames(str(path)))), turned(plain))


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("size", [(17, 23), (64, 96)])
def test_lossless_is_exact(tmp_path, ending, size):
    images = [np.random.default_rng(i).integers(0, 256, (*size, 3), dtype=np.uint8) for i in range(4)]
    with VideoFile(tmp_path / f"a{ending}", 25, codec="lossless") as video:
        for image in images:
            video.write(image)
    assert all((x == y).all() for x, y in zip(open_frames(str(tmp_path / f"a{ending}")), images, strict=True))


@pytest.mark.parametrize("codec, name", [("h264", "h264"), ("h265", "hevc"), ("mjpeg", "mjpeg"), ("lossless", "ffv1")])
@pytest.mark.parametrize("ending", ENDINGS)
def test_codecs_and_formats_that_are_written(tmp_path, codec, name, ending):
    if (codec, ending) == ("h265", ".avi"):
        with pytest.raises(UserError, match="a.avi: .avi files do not take --codec h265; use .mp4 or .mkv, or another"):
            write_video(tmp_path / "a.avi", codec=codec)
        return
    with av.open(str(write_video(tmp_path / f"a{ending}", codec=codec))) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == name
        assert codec not in ("h264", "h265") or stream.codec_context.pix_fmt == "yuv420p"
        assert (codec, ending) != ("h265", ".mp4") or stream.codec_context.codec_tag == "hvc1"


def test_quality_is_the_rate_factor(tmp_path):
    sizes = []
    for quality in (5, None, 45):
        with VideoFile(tmp_path / "a.mp4", 25, quality=quality) as video:
            for frame in panning([3] * 9):
                video.write(frame)
        sizes.append((tmp_path / "a.mp4").stat().st_size)
    assert sizes[0] > 1.5 * sizes[1] > 2 * sizes[2]


def test_index_comes_before_the_frames(tmp_path):
    content = write_video(tmp_path / "a.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_padding_repeats_the_edge(tmp_path):
    with VideoFile(tmp_path / "a.mp4", 25, quality=1) as video:
        video.write(image := np.full((15, 31, 3), (200, 60, 30), np.uint8))
    (frame,) = open_frames(str(tmp_path / "a.mp4"))
    assert frame.shape == (16, 32, 3) and np.abs(frame[:15, :31].astype(int) - image).max() < 8
    assert np.abs(frame[15].astype(int) - image[0, 0]).max() < 8 > np.abs(frame[:, 31].astype(int) - image[0, 0]).max()


def test_parts(tmp_path):
    source = str(encoded(tmp_path / "a.mp4", FRAMES))
    part = open_frames(source, start=0.5, end=1.5, stride=4)
    assert part.fps == 7.5 and part.start == pytest.approx(0.5) and part.count == 8
    shown = list(part.timed)
    assert [x.time for x in shown] == pytest.approx([i * 4 / 30 for i in range(8)], abs=1e-3)
    assert [np.abs(x.image.astype(int) - FRAMES[15 + 4 * i]).max() < 8 for i, x in enumerate(shown)] == [True] * 8
    assert open_frames(source, start=0.5, stride=4).count == len(list(open_frames(source, start=0.5, stride=4))) == 12
    assert [open_frames(source, start=1, end=end).count for end in (9, 1e308, np.inf)] == [30, 30, 30]
    with pytest.raises(UserError, match="a.mp4: has no frame in the part that --start and --end name; choose another"):
        open_frames(source, start=9)


def test_parts_of_pictures_keep_their_names(tmp_path):
    write_pictures(tmp_path, [f"{i}.png" for i in range(60)])
    part = open_frames(str(tmp_path), start=1, end=1.5, stride=5)
    assert [(part.title(i), (x == picture(30 + 5 * i)).all()) for i, x in enumerate(part)] == [
        ("30", True), ("35", True), ("40", True)]


def test_without_pyav(tmp_path, monkeypatch):
    """Pictures do without it."""
    path = write_video(tmp_path / "a.mp4")
    write_pictures(tmp_path / "in", ["a.png"])
    monkeypatch.setitem(sys.modules, "av", None)
    assert len(list(open_frames(str(tmp_path / "in")))) == 1
    for broken in (lambda: open_frames(str(path)), lambda: write_video(tmp_path / "b.mp4")):
        with pytest.raises(ModuleNotFoundError, match="av"):
            broken()


PAGE = """<video id=v muted></video><script>
const tell = what => fetch("/told?what=" + what + "&width=" + v.videoWidth + "&seconds=" + v.duration);
v.onerror = () => tell("error"); v.ontimeupdate = () => v.currentTime > 0.3 && tell("played");
v.oncanplaythrough = () => v.play(); v.src = "/a.mp4";</script>"""


def browser_on(folder) -> dict[str, str]:
    """What Chromium tells of a page that plays a.mp4."""
    chromium, told, done = shutil.which("chromium"), {}, threading.Event()
    if chromium is None:
        pytest.skip("no Chromium here")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *given):
            super().__init__(*given, directory=folder)

        def do_GET(self):
            if not self.path.startswith("/told"):
                return super().do_GET()
            told.update({key: value[0] for key, value in parse_qs(urlparse(self.path).query).items()})
            self.send_response(204)
            self.end_headers()
            done.set()

        def log_message(self, *_):
            pass

    (folder / "page.html").write_text(PAGE)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
        browser = subprocess.Popen([chromium, *flags, "--remote-debugging-port=0",
                                    f"http://127.0.0.1:{server.server_address[1]}/page.html"],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            assert done.wait(90), "the page told nothing"
        finally:
            browser.terminate()
            browser.wait(20)
            server.shutdown()
    return told


@pytest.mark.parametrize("sound", ["", "aac", "pcm_s16le"])
def test_browser_plays_what_is_written(tmp_path, sound):
    source = encoded(tmp_path / "in.mkv", [x[:61, :95] for x in FRAMES for _ in "12"][:60], pixels="yuv444p",
                     codec="libx264", sound=sound)
    copied(source, tmp_path / "a.mp4")
    told = browser_on(tmp_path)
    assert (told["what"], told["width"]) == ("played", "96") and float(told["seconds"]) == pytest.approx(2, abs=0.1)


def test_browser_does_not_play_mpeg4_part_2(tmp_path):
    """What this program wrote before."""
    encoded(tmp_path / "a.mp4", FRAMES, codec="mpeg4")
    assert browser_on(tmp_path)["what"] == "error"
