"""A folder, a glob or a list of videos: each becomes a video, once; and parts of a video."""
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch

from config.command_line import parse
from inference import video
from inference.video_input import open_frames, title_of
from main import main
from tests.films import encoded, heard_at, opened, picture, times_of, write_pictures, write_video
from tests.main.program import Program
from tests.main.test_launchers import ROOT, launch
from utils.distributed import Ranks

COMMON = ["--resume", "1", "--device", "cpu", "--engine", "eager"]


@pytest.fixture
def call(weights, monkeypatch, tmp_path, capfd):
    """Run the program in this process and the folder of the test: status, standard error, standard output."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        capfd.readouterr()
        status = main(["--weights-dir", str(weights), *COMMON, *map(str, words)])
        out, err = capfd.readouterr()
        return status, err.strip().splitlines(), out

    return run


def test_folder_of_videos(call, tmp_path):
    for number, name in enumerate(("a.mp4", "b.avi", "c.mkv")):
        write_video(tmp_path / "in" / name, 3 + number, size=(32, 48))
    (tmp_path / "in" / "notes.txt").touch()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.mp4").write_text("finished")
    status, err, out = call("--video", "in", "--output", "out")
    assert (status, err) == (0, []) and "1 of 3 videos are in out already; delete one to segment it again" in out
    assert sorted(os.listdir(tmp_path / "out")) == ["a.mp4", "b.mp4", "c.mp4"]
    assert [len(opened(tmp_path / "out" / f"{x}.mp4")[2]) for x in "ac"] == [3, 5]
    assert (tmp_path / "out" / "b.mp4").read_text() == "finished"


def test_folder_of_folders_of_pictures(call, tmp_path):
    for folder in ("one", "two"):
        write_pictures(tmp_path / "in" / folder, ["0.png", "1.png"])
    assert call("--video", "in", "--output", "out")[:2] == (0, [])
    assert sorted(os.listdir(tmp_path / "out")) == ["one.mp4", "two.mp4"]


def test_finished_videos_need_no_networks(call, tmp_path, monkeypatch):
    monkeypatch.setattr(video, "networks_for_inference", None)
    write_video(tmp_path / "in" / "a.mp4")
    write_video(tmp_path / "out" / "a.mp4")
    assert call("--video", "in", "--output", "out")[:2] == (0, [])


@pytest.mark.parametrize("source", ["in/b*.mp4", "in/list.txt", "in/globs.txt"])
def test_glob_and_list_of_videos(call, tmp_path, source):
    for name in ("a.mp4", "b1.mp4", "b2.mp4"):
        write_video(tmp_path / "in" / name, size=(32, 48))
    (tmp_path / "in" / "list.txt").write_text("# two of them\nb2.mp4\n\nb1.mp4\n")
    (tmp_path / "in" / "globs.txt").write_text("b*.mp4\n")
    assert call("--video", source, "--output", "new/out", "--style", "colour", "--codec", "lossless")[:2] == (0, [])
    assert sorted(os.listdir(tmp_path / "new" / "out")) == ["b1.mp4", "b2.mp4"]


def test_damaged_video_is_named_at_the_end_and_the_others_are_done(call, tmp_path):
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        write_video(tmp_path / "in" / name, size=(32, 48))
    (tmp_path / "in" / "b.mp4").write_bytes(b"torn")
    status, err, _ = call("--video", "in", "--output", "out")
    assert (status, len(err)) == (2, 1)
    message = r"error: 1 of 3 videos failed, the others are done: in/b.mp4: cannot be read as a video \(4 bytes; .*"
    assert re.fullmatch(message, err[0])
    assert sorted(os.listdir(tmp_path / "out")) == ["a.mp4", "c.mp4"]


@pytest.mark.parametrize(
    "words, message",
    [
        (["--video", "in", "--output", "a.mp4"], "--output a.mp4: of several videos, takes one folder for all"),
        (["--video", "in", "--output", "out", "a.mp4"], "of several videos, takes one folder for all"),
        (["--video", "in", "--output", "out", "--ids", "train"], "--ids: several videos become videos, not label maps"),
        (["--video", "in", "--output", "in"], "--output in: the folder of --video, whose videos it would join;"),
        (["--video", "in/*.mp4", "--output", "in"], "--output in: in/a.mp4 is read by --video and would be overwri"),
        (["--video", "*/a.*", "--output", "out"], "in/a.mp4 and two/a.avi would both become out/a.mp4; rename one"),
        (["--video", "gone.txt", "--output", "out"], r"gone.txt: lists no.mp4, which is not there; write one path a"),
        (["--video", "glob.txt", "--output", "out"], r"glob.txt: lists in/zz\*.mp4, which is not there; write one"),
        (["--video", "empty.txt", "--output", "out"], "empty.txt: lists no video; write one path a line"),
        (["--video", "lists.txt", "--output", "out"], "lists.txt: lists empty.txt, another list; name its videos"),
        (["--video", "addresses.txt", "--output", "deep/out"], "1 of 2 videos failed.*http://127.0.0.1:9/b.mp4: canno"),
        (["--video", "both", "--output", "out"], "both: holds 1 videos and 2 pictures, 0.png among them; name one"),
        (["--video", "both/*", "--output", "out"], r"both/\*: holds 1 videos and 2 pictures, 0.png among them; name"),
        (["--video", "in/a.mp4", "--output", ""], "--output: an empty name; name a video or a folder"),
        (["--video", "in/a.mp4", "--output", "b.mp4", "--start", "9"], "in/a.mp4: has no frame in the part that --sta"),
    ],
)
def test_mistakes_get_one_line(call, tmp_path, words, message):
    write_video(tmp_path / "in" / "a.mp4")
    write_video(tmp_path / "in" / "b.mp4")
    write_video(tmp_path / "two" / "a.avi")
    write_video(tmp_path / "both" / "c.mp4")
    write_pictures(tmp_path / "both", ["0.png", "1.png"])
    write_video(tmp_path / "deep" / "out" / "a.mp4")
    (tmp_path / "addresses.txt").write_text("in/a.mp4\nhttp://127.0.0.1:9/b.mp4\n")
    lists = {"gone.txt": "no.mp4", "glob.txt": "in/zz*.mp4", "empty.txt": "# none\n", "lists.txt": "empty.txt"}
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
    before = sorted(tmp_path.rglob("*"))
    status, err, _ = call(*words)
    assert (status, len(err)) == (2, 1) and re.search(f"^error: .*{message}", err[0]), err
    assert sorted(tmp_path.rglob("*")) == before


def test_demo_and_cameras_are_not_folders_of_these_names(call, tmp_path, monkeypatch):
    write_video(tmp_path / "demo" / "a.mp4")
    monkeypatch.chdir(tmp_path)
    assert video.videos_in("demo") == ["demo"] and video.videos_in("./demo") == ["demo/a.mp4"]
    write_video(tmp_path / "0" / "a.mp4")
    assert video.videos_in("0") == ["0"] and video.videos_in("0/") == ["0/a.mp4"]
    for name in ("demo", "0"):
        write_pictures(tmp_path / "in" / name, ["0.png", "1.png"])
    (tmp_path / "in" / "list.txt").write_text("./demo\n0\n")
    monkeypatch.chdir(tmp_path / "in")
    for source in (".", "*", "list.txt", "../in"):
        assert call("--video", source, "--output", "../out")[:2] == (0, [])
        assert {name: len(opened(tmp_path / f"out/{name}")[2]) for name in os.listdir(tmp_path / "out")} == {
            "demo.mp4": 2, "0.mp4": 2
        }
        shutil.rmtree(tmp_path / "out")


def test_videos_keep_their_names(call, tmp_path):
    for name in ("one [abc].mp4", "two [def].mp4", "q?.avi"):
        write_video(tmp_path / "in" / name, size=(32, 48))
    for name in ("v1.0", "v1.1", "s [x]"):
        write_pictures(tmp_path / "in" / name, ["0.png", "1.png"])
    assert call("--video", "in", "--output", "out")[:2] == (0, [])
    expected = ["one [abc].mp4", "q?.mp4", "s [x].mp4", "two [def].mp4", "v1.0.mp4", "v1.1.mp4"]
    assert sorted(os.listdir(tmp_path / "out")) == expected


def test_list_in_a_folder_with_brackets(call, tmp_path):
    write_video(tmp_path / "[in]" / "a [1].mp4", size=(32, 48))
    write_video(tmp_path / "[in]" / "b.mp4", size=(32, 48))
    write_pictures(tmp_path / "[in]", ["0.png", "1.png"])
    (tmp_path / "[in]" / "list.txt").write_text("b*.mp4\na [1].mp4\n*.png\n")
    assert call("--video", "[in]/list.txt", "--output", "out")[:2] == (0, [])
    assert sorted(os.listdir(tmp_path / "out")) == ["[in].mp4", "a [1].mp4", "b.mp4"]


@pytest.mark.parametrize("source, title", [
    ("rtsp://u:p@10.0.0.7:554/", "10.0.0.7"), ("rtsp://192.168.1.10", "192.168.1.10"), ("http://h/a.mp4?b=c.d", "a"),
    ("in/film.mp4", "film"), ("in/*/img.png", "img"), ("in/*.png", "in"), ("*/*", None),
])
def test_titles(source, title, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert title_of(source) == (title or tmp_path.name)


def test_file_called_demo_is_read_again_as_that_file(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4", 3)
    (tmp_path / "a.mp4").rename(tmp_path / "demo")
    monkeypatch.chdir(tmp_path)
    assert len([*open_frames(open_frames("./demo").name)]) == 3


def test_folder_that_cannot_be_read_fails_alone(call, tmp_path, monkeypatch):
    write_video(tmp_path / "in" / "a.mp4", size=(32, 48))
    (tmp_path / "in" / "locked").mkdir()
    (tmp_path / "locked").mkdir()
    listed = Path.iterdir

    def iterdir(path):
        if path.name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    status, err, _ = call("--video", "locked", "--output", "out")
    assert (status, err) == (2, ["error: locked: cannot be opened (Permission denied); check its permissions"])
    status, err, _ = call("--video", "in", "--output", "out")
    assert status == 2 and re.search("1 of 2 videos failed, the others are done: in/locked: cannot be opened", err[0])
    assert os.listdir(tmp_path / "out") == ["a.mp4"]


def test_one_video_is_for_the_first_rank(tmp_path):
    options = parse([*COMMON, "--video", "nowhere.mp4", "--output", str(tmp_path / "a.mp4")])
    assert video.run_video(options, torch.device("cpu"), Ranks(1, 2)) == 0


def test_part_of_a_video(call, tmp_path):
    frames = [picture(i % 20, (64, 96)) for i in range(60)]
    encoded(tmp_path / "in.mp4", frames, sound="aac", click=1)
    part = ("--start", "0.5", "--end", "1.5", "--stride", "2")
    assert call("--video", "in.mp4", "--output", "a.mp4", "labels", *part)[:2] == (0, [])
    assert times_of(tmp_path / "a.mp4") == pytest.approx([i / 15 for i in range(15)], abs=1e-3)
    assert heard_at(tmp_path / "a.mp4") == pytest.approx(0.5, abs=3e-3)
    assert len(os.listdir(tmp_path / "labels")) == 15
    assert call("--video", "in.mp4", "--output", "b.mp4", "--end", "0.2", "--audio", "0")[0] == 0
    with pytest.raises(IndexError):
        heard_at(tmp_path / "b.mp4")


def test_part_of_pictures_keeps_their_names(call, tmp_path):
    write_pictures(tmp_path / "in", [f"view_{i}.png" for i in range(40)])
    assert call("--video", "in", "--output", "labels", "--start", "1", "--stride", "4")[:2] == (0, [])
    assert sorted(os.listdir(tmp_path / "labels")) == ["view_30.png", "view_34.png", "view_38.png"]


def test_without_pyav(call, tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4")
    write_pictures(tmp_path / "in", ["0.png", "1.png"])
    monkeypatch.setitem(sys.modules, "av", None)
    assert call("--video", "in", "--output", "labels")[:2] == (0, [])
    for words in (["--video", "a.mp4", "--output", "more"], ["--video", "in", "--output", "b.mp4"]):
        status, err, _ = call(*words)
        assert (status, len(err)) == (2, 1) and "the Python package av is not installed here" in err[0], err
    assert sorted(os.listdir(tmp_path)) == ["a.mp4", "in", "labels"]


def test_list_names_videos_after_what_it_names(call, tmp_path):
    write_video(tmp_path / "in" / "a.mp4", size=(32, 48))
    for folder in ("one", "two"):
        write_pictures(tmp_path / "pictures" / folder, ["0.png", "1.png"])
    (tmp_path / "list.txt").write_text("\ufeffin\nin/a.mp4\npictures/one/*.png\npictures/two\n", "utf-8")
    assert call("--video", "list.txt", "--output", "out")[:2] == (0, [])
    assert sorted(os.listdir(tmp_path / "out")) == ["a.mp4", "one.mp4", "two.mp4"]


def test_interrupt_while_a_video_is_completed_ends_after_it(call, tmp_path, monkeypatch):
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / "in" / name, size=(32, 48))
    complete = video.VideoFile.__exit__

    def interrupted(file, *error):
        signal.raise_signal(signal.SIGINT)
        complete(file, *error)

    monkeypatch.setattr(video.VideoFile, "__exit__", interrupted)
    status, err, out = call("--video", "in", "--output", "out")
    assert (status, err) == (130, []) and "stopped by signal 2; out/a.mp4 is finished" in out
    assert os.listdir(tmp_path / "out") == ["a.mp4"]


@pytest.mark.slow
def test_interrupted_video_is_not_taken_for_finished(weights, tmp_path):
    write_video(tmp_path / "in" / "a.mp4", 4, size=(64, 96))
    write_video(tmp_path / "in" / "b.mp4", 3000, size=(64, 96))
    words = ["--weights-dir", str(weights), *COMMON, "--video", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    program = Program(words, tmp_path / "run")
    program.wait_until(lambda: (tmp_path / "out" / "a.mp4").exists() and "b.mp4: 96 x 64" in program.output)
    program.signal(signal.SIGINT)
    assert (program.status(), program.errors) == (130, "")
    assert os.listdir(tmp_path / "out") == ["a.mp4"]
    assert re.search(r"stopped by signal 2; \S+b.mp4 is not finished, and not kept", program.output)


@pytest.mark.slow
def test_videos_are_split_over_two_ranks(weights, tmp_path):
    for name in "abcd":
        write_video(tmp_path / "in" / f"{name}.mp4", size=(32, 48))
    (tmp_path / "in" / "b.mp4").write_bytes(b"torn")
    words = ["--weights-dir", str(weights), *COMMON, "--video", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    done = launch("torch.distributed.run", ROOT / "main.py", words)
    assert done.returncode and sorted(os.listdir(tmp_path / "out")) == ["a.mp4", "c.mp4", "d.mp4"]
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "1 of 4 videos failed, the others are done: " in errors[0]
    (tmp_path / "in" / "b.mp4").unlink()
    (tmp_path / "out" / "c.mp4").unlink()
    done = launch("torch.distributed.run", ROOT / "main.py", words)
    assert done.returncode == 0 and sorted(os.listdir(tmp_path / "out")) == ["a.mp4", "c.mp4", "d.mp4"]
    words = [*words[:-3], str(write_video(tmp_path / "e.mp4")), "--output", str(tmp_path / "f.mp4")]
    done = launch("torch.distributed.run", ROOT / "main.py", words)
    assert done.returncode == 0 and len(opened(tmp_path / "f.mp4")[2]) == 5
