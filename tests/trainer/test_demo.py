"""The commands that the demonstration prints at its end."""
import shlex
import sys
from pathlib import Path

from config.command_line import parse
from config.options import tasks
from trainer.demo import FOLDER, next_commands
from utils.run_folder import run_root


def test_next_commands_evaluate_segment_and_resume_with_the_trained_files():
    words = [shlex.split(line) for line in next_commands(Path("g.tar"))]
    assert all(Path(line[0]).samefile(sys.executable) and line[1] == "main.py" for line in words)
    evaluate, video, resume = (parse(line[2:]) for line in words)
    assert [tasks(options) for options in (evaluate, video, resume)] == [["--evaluate 1"], ["--video"], []]
    assert evaluate.resume == video.resume == "g.tar"
    assert (resume.resume, resume.epoch) == ("auto", 4)
    assert run_root(resume) == FOLDER / "logs" / "run" / "synthetic" / "swiftnet_demo"
