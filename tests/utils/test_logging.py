"""Log lines on a terminal."""
import io
import re
import sys

from utils.logging import logger, progress_bar, start_console


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_log_lines_stand_above_the_progress_bar(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setattr(logger, "handlers", [])
    start_console()
    with progress_bar(total=2, description="train", unit="step") as bar:
        bar.update()
        logger.info("loss 1")
    before, after = re.split(r"\r *\rloss 1\n", screen.getvalue())  # the bar is wiped, and drawn again below
    assert "train: " in before and "train: " in after
