"""`--video` in processes of its own: damaged bytes, full disks, signals at every stage, and memory over 10,000 frames.

Run as a program, this file runs the program again and again: see `run_cases`.
"""
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from inference.video_writer import VideoFile
from tests.films import opened, write_video
from tests.main.program import Program
from tests.tried import THOROUGH

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
COMMON = ("--resume", "1", "--device", "cpu", "--engine", "eager")
FULL = "disk that is full, or becomes it: MP4, AVI, Matroska, label maps, both, --export"
MUTANTS = "videos with a byte changed, a piece cut out, or their end cut off, at seeded random places"
STAGES = "SIGINT and SIGTERM while it opens, reads weights, chooses the engine, segments, completes, reports"
FLAT = 16  # MiB that 9,000 frames more may add


def run_cases(weights: str, cases: str) -> None:
    """Run the program with the words of every case of a JSON file, and the shell commands before and after them.

    A line for each: exit status, what came on standard error, also from libraries, and what the second command printed.
    """
    import torch

    from config.command_line import parse
    from inference import video
    from main import main

    torch.set_num_threads(1)
    net = video.networks_for_inference(parse(["--weights-dir", weights, *COMMON]))
    video.networks_for_inference = lambda options: net
    out, sys.stdout, before = sys.stdout, open(os.devnull, "w"), os.dup(2)
    for case in json.loads(Path(cases).read_text()):
        subprocess.run(case.get("before", ""), shell=True, check=True)
        with tempfile.TemporaryFile() as caught:
            os.dup2(caught.fileno(), 2)
            status = main(["--weights-dir", weights, *COMMON, *case["words"]])
            sys.stderr.flush()
            os.dup2(before, 2)
            caught.seek(0)
            err = caught.read().decode(errors="replace")
        seen = subprocess.run(case.get("after", ""), shell=True, capture_output=True, text=True).stdout
        print(json.dumps({"status": status, "err": err.splitlines(), "seen": seen}), file=out, flush=True)


def results(weights: Path, folder: Path, cases: list[dict], around: tuple[str, ...] = ()) -> list[dict]:
    """The results of `run_cases`, run inside the command `around`."""
    (folder / "cases.json").write_text(json.dumps(cases))
    done = subprocess.run([*around, sys.executable, __file__, str(weights), str(folder / "cases.json")],
                          env=ENVIRONMENT,
                          capture_output=True, text=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    whole = done.returncode == 0 and len(found) == len(cases)
    assert whole, f"{cases[len(found)]}: {done.returncode}\n{done.stderr[-3000:]}"
    return found


def mutants(folder: Path, count: int, seed: int) -> list[Path]:
    """Damaged copies of small videos of every kind that is written."""
    rng = np.random.default_rng(seed)
    whole = []
    for name, size in (("a.mp4", (16, 24)), ("b.avi", (16, 24)), ("c.mkv", (16, 24)), ("d.mp4", (15, 23)),
                       ("e.avi", (15, 23))):
        with VideoFile(folder / name, 25) as video:
            for _ in range(4):
                video.write(rng.integers(0, 255, (*size, 3), np.uint8))
        whole.append(folder / name)
    made = []
    for number in range(count):
        source = whole[number % len(whole)]
        content = bytearray(source.read_bytes())
        at = int(rng.integers(len(content) if number % 2 else 600))  # half of them in the header
        if number % 8 < 6:
            content[at] ^= int(rng.integers(1, 256))
        else:
            del content[at : at + int(rng.integers(1, 64)) if number % 8 == 6 else None]
        made.append(folder / f"{number}{source.suffix}")
        made[-1].write_bytes(content)
    return made


@pytest.mark.tried("Video", MUTANTS)
@pytest.mark.parametrize("count, seed", [(40, 0), pytest.param(400 if THOROUGH else 80, 1, marks=pytest.mark.slow)])
def test_damaged_videos(weights, tmp_path, outcomes, count, seed):
    made = mutants(tmp_path, count, seed)
    outputs = [tmp_path / f"out_{i}" for i in range(count)]
    words = [["--video", str(path), "--output", str(out / f"a{path.suffix}"), str(out / "labels")] for path,
             out in zip(made, outputs)]
    for path, out, found in zip(made, outputs, results(weights, tmp_path, [{"words": each} for each in words])):
        videos = list(out.glob("a.*"))
        assert not list(out.glob(".*")), path
        if found["status"] == 0:
            assert found["err"] == [] and len(videos) == 1, (path, found)
            assert len(opened(videos[0])[2]) == len(list((out / "labels").iterdir())) > 0, path
            outcomes["segmented as far as it can be read, into files that open"] += 1
        else:
            assert found["status"] == 2 and len(found["err"]) == 1 and found["err"][0].startswith("error: "), (path,
                                                                                                               found)
            assert videos == [], path
            outcomes["refused in one line"] += 1


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """A video of 120 frames of noise."""
    path, rng = tmp_path_factory.mktemp("noise") / "noise.avi", np.random.default_rng(0)
    with VideoFile(path, 25) as video:
        for _ in range(120):
            video.write(rng.integers(0, 255, (64, 64, 3), np.uint8))
    return path


def needs_small_disks() -> None:
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode:
        pytest.skip("no small file system can be mounted here (unshare -rm)")


def look(folder: Path) -> str:
    """A shell command that lists the files there, hidden ones too, and checks those of before."""
    return f"cd {folder}; grep -lx 'of before' $(find . -type f) | sed 's/$/ as before/'; find . -type f | sort"


@pytest.mark.tried("Video", FULL, "refused in one line, nothing half-written, what was there before stays")
def test_full_disks(weights, noise, tmp_path, outcomes):
    needs_small_disks()
    disk = tmp_path / "disk"
    disk.mkdir()
    growing = f"umount {disk} 2>/dev/null; mount -t tmpfs -o size=80k none {disk}; cd {disk}; "
    growing += "echo of before | tee a.mp4 a.avi > a.mkv"
    full = f"{growing}; dd if=/dev/zero of=filler bs=4k 2>/dev/null; true"
    cases = [
        {"before": before, "after": look(disk),
         "words": ["--video", str(noise), "--output", *(str(disk / name) for name in names)]}
        for before in (growing, full) for names in (("a.mp4",), ("a.avi",), ("a.mkv",), ("labels",),
                                                    ("a.mp4", "labels"), ("new/a.avi",))
    ]
    cases += [{"before": before, "after": look(disk),
               "words": ["--export", str(disk / "out"), "--export-size", "32", "32"]}
              for before in (growing, full)]
    for case, found in zip(cases, results(weights, tmp_path, cases, ("unshare", "-rm"))):
        assert found["status"] == 2 and len(found["err"]) == 1, (case, found)
        assert found["err"][0].startswith(f"error: {disk}"), found
        assert re.search(r"\(No space left on device\)|not be written completely \(0 MiB free on the disk\)",
                         found["err"][0]), found
        assert "free some space" in found["err"][0], found
        seen = found["seen"].splitlines()
        assert [f"./a.{kind} as before" in seen for kind in ("mp4", "avi", "mkv")] == [True] * 3, found
        assert not [line for line in seen if "/." in line or "new" in line], found
        outcomes["refused in one line, nothing half-written, what was there before stays"] += 1


@pytest.mark.tried("Video", "file system that may only be read", "refused in one line, what was there before stays")
def test_read_only_disks(weights, noise, tmp_path, outcomes):
    needs_small_disks()
    disk = tmp_path / "disk"
    (disk / "labels").mkdir(parents=True)
    (disk / "a.mp4").write_text("of before\n")
    before = f"mountpoint -q {disk} || mount --bind -o ro {disk} {disk} && mount -o remount,ro,bind {disk}"
    outputs = (["a.mp4"], ["b.avi"], ["labels"], ["new/a.mkv"], ["new/labels"], ["b.mp4", "labels"])
    words = [["--video", str(noise), "--output", *(str(disk / name) for name in names)] for names in outputs]
    words += [["--export", str(disk / name), "--export-size", "32", "32"] for name in ("labels", "new")]
    cases = [{"before": before, "words": each} for each in words]
    for found in results(weights, tmp_path, cases, ("unshare", "-rm")):
        assert found["status"] == 2 and len(found["err"]) == 1 and "(Read-only file system)" in found["err"][0], found
        assert found["err"][0].startswith(f"error: {disk}") and "choose another folder" in found["err"][0], found
        outcomes["refused in one line, what was there before stays"] += 1
    assert sorted(os.listdir(disk)) == ["a.mp4", "labels"] and (disk / "a.mp4").read_text() == "of before\n"


SIGNALLED = """
import os, sys, signal
from main import main
import models.load
from inference import video, video_writer
owner, name, call, number, times = {place!r}, {name!r}, {call}, {number}, {times}
owner = getattr(video_writer, owner, None) or getattr(video, owner, video)
usual, calls = getattr(owner, name), 0
def signalled(*given, **named):
    global calls
    calls += 1
    for _ in range(times if calls == call else 0):
        os.kill(os.getpid(), number)
    return usual(*given, **named)
setattr(owner, name, signalled)
sys.exit(main(sys.argv[1:]))
"""


def signalled(weights, folder: Path, place: str, name: str, call: int, number: int,
              times: int = 1) -> Program:
    """The program on a video of 30 frames, which signals itself at the beginning of a function."""
    source = write_video(folder / "in.avi", count=30, size=(32, 32))
    (folder / "a.mp4").write_text("of before")
    script = folder / "process" / "signalled.py"
    script.parent.mkdir()
    script.write_text(SIGNALLED.format(place=place, name=name, call=call, number=int(number), times=times))
    words = ["--weights-dir", str(weights), *COMMON, "--video", str(source)]
    words += ["--output", str(folder / "a.mp4"), str(folder / "labels")]
    program = Program(words, script, script, launcher=() if times > 1 else None)  # the second one ends Python itself
    program.process.wait(120)
    return program


@pytest.mark.slow
@pytest.mark.tried("Video", STAGES, "ends at once, with what was segmented until then, whole; status 130 or 143")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "place, name, call",
    [("", "open_frames", 1), ("", "networks_for_inference", 1), ("", "choose_engine", 1),
     ("VideoSegmenter", "labels_of", 1),
     ("VideoSegmenter", "labels_of", 30), ("VideoFile", "write", 10), ("", "write_picture", 20),
     ("VideoFile", "__exit__", 1),
     ("", "_report", 1)],
)
def test_signals_at_every_stage(weights, tmp_path, place, name, call, number):
    done = signalled(weights, tmp_path, place, name, call, number)
    assert done.process.returncode in (128 + number, -number) and done.errors == "", done.errors
    assert sorted(path.name for path in tmp_path.glob("*.*")) == ["a.mp4", "in.avi"]
    if name in ("open_frames", "networks_for_inference", "choose_engine"):
        assert (tmp_path / "a.mp4").read_text() == "of before" and not (tmp_path / "labels").exists()
        return
    count = len(opened(tmp_path / "a.mp4")[2])
    assert count == len(list((tmp_path / "labels").iterdir()))
    assert count == 30 if name in ("__exit__", "_report") else call <= count
    if name != "_report":
        assert f"stopped by signal {int(number)}; the frames segmented until then are written" in done.output


@pytest.mark.slow
@pytest.mark.tried("Video", "a second SIGINT or SIGTERM, and SIGKILL", "ends at once, the video of before stays")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("place, name, call", [("VideoSegmenter", "labels_of", 9), ("VideoFile", "__exit__", 1)])
def test_second_signal(weights, tmp_path, place, name, call, number):
    done = signalled(weights, tmp_path, place, name, call, number, times=2)
    assert (done.status(), done.errors) == (128 + number, "")
    assert (tmp_path / "a.mp4").read_text() == "of before"
    assert not list(tmp_path.glob(".*"))


@pytest.mark.tried("Video", "a second SIGINT or SIGTERM, and SIGKILL", "ends at once, the video of before stays")
def test_kill(weights, tmp_path):
    done = signalled(weights, tmp_path, "VideoSegmenter", "labels_of", 20, signal.SIGKILL)
    assert done.process.returncode == -signal.SIGKILL
    assert (tmp_path / "a.mp4").read_text() == "of before"
    for path in (tmp_path / "labels").glob("*.png"):
        assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape == (32, 32)


def resident(process: int) -> float:
    """MiB of memory that a process has."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
@pytest.mark.tried("Video", "a video of 10,000 frames through the whole program")
def test_memory_over_ten_thousand_frames(weights, tmp_path, outcomes):
    frames = 10_000 if THOROUGH else 2_000
    source = write_video(tmp_path / "in.avi", count=frames, size=(32, 48))
    process = Program(["--weights-dir", str(weights), *COMMON, "--video", str(source), "--output",
                       str(tmp_path / "a.mp4"), str(tmp_path / "labels")], tmp_path / "run").process
    measured = []
    for frame in (1000, frames - 10):
        while process.poll() is None and not (tmp_path / "labels" / f"frame_{frame:06d}.png").is_file():
            time.sleep(0.01)
        measured.append(resident(process.pid))
    assert process.wait() == 0
    count = cv2.VideoCapture(str(tmp_path / "a.mp4")).get(cv2.CAP_PROP_FRAME_COUNT)
    assert len(os.listdir(tmp_path / "labels")) == count == frames
    assert measured[1] - measured[0] < FLAT, measured
    outcomes[f"resident memory {measured[0]:.0f} MiB after 1,000 frames, {measured[1]:.0f} MiB after {frames:,}"] += 1


if __name__ == "__main__":
    run_cases(*sys.argv[1:])
