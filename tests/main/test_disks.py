"""Folders that cannot be written to, and disks that are full, at the start or at any byte."""
import json
import subprocess
import sys
from pathlib import Path

import pytest

from main import main
from tests.main.program import DOOR, ENVIRONMENT, ROOT, experiment, read_all, refusal, temporaries, training
from tests.tried import THOROUGH
from utils.run_folder import LATEST

IN_TURN = ROOT / "tests" / "main" / "in_turn.py"


def run_in_turn(cases: list[dict]) -> list[dict]:
    """Run the program on each case, with file systems mounted for it alone; skips where that is impossible."""
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here (unshare -rm)")
    done = subprocess.run(
        ["unshare", "-rm", sys.executable, str(IN_TURN), json.dumps(cases)], env=ENVIRONMENT, capture_output=True,
        text=True, timeout=500,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-2000:]
    return json.loads(done.stdout)


def refused(ends: list[dict], names: list[str]) -> list[str]:
    """The lines of runs that must all end with one line, which contains the entry of `names`."""
    lines = []
    for end, name in zip(ends, names, strict=True):
        assert end["status"] == 2, end
        lines.append(refusal(end["errors"]))
        assert name in lines[-1], f"{name} not in {lines[-1]}"
    return lines


@pytest.fixture
def words(streets, weights, tmp_path):
    return training(streets, weights, tmp_path / "logs", "--early-stop", "1")


@pytest.mark.tried(
    DOOR, "a log folder that is a file, contains one in place of a folder, or is a broken link",
    "refused in one line",
)
@pytest.mark.parametrize("what", ["a file", "a file in it", "a broken link"])
@pytest.mark.parametrize("more", [[], ["--evaluate", "1", "--resume", "1"]], ids=["training", "evaluation"])
def test_log_folder_that_is_not_a_folder(words, tmp_path, capsys, what, more):
    logs = tmp_path / "logs"
    if what == "a broken link":
        logs.symlink_to(tmp_path / "disk" / "away")
    elif what == "a file":
        logs.write_text("")
    else:
        logs.mkdir()
        (logs / "run").write_text("")
    capsys.readouterr()
    assert main([*words, *more]) == 2
    line = refusal(capsys.readouterr().err)
    assert str(logs) in line and "--log-folder" in line
    assert what != "a broken link" or not (tmp_path / "disk").exists()


@pytest.mark.tried(
    DOOR, "a read-only disk for logs, a run to be continued, metrics, predictions, cache, data, a benchmark"
)
def test_read_only(words, tmp_path, outcomes):
    disk, logs = tmp_path / "disk", tmp_path / "logs"
    assert main([*words, "--checkname", "old"]) == 0
    evaluate = [*words, "--evaluate", "1", "--resume", "1", "--log-folder", str(logs)]
    full = {path: path.read_bytes() for path in logs.rglob("*") if path.is_file()}
    disk.mkdir()
    kept = experiment(disk / "kept", name="swiftnet_old")
    away = [
        ([*words, "--log-folder", str(disk)], disk),
        ([*words, "--log-folder", str(disk / "logs")], disk / "logs"),
        ([*words, "--checkname", "old", "--resume", "auto", "--log-folder", str(disk / "kept")], kept),
        ([*words, "--metrics-file", str(disk / "metrics.json")], disk / "metrics.json"),
        ([*words, "--cache-dir", str(disk / "cache")], disk / "cache"),
        ([*words, "--data-path", str(disk / "streets")], disk / "streets"),
        ([*evaluate, "--log-folder", str(disk)], disk),
        ([*evaluate, "--metrics-file", str(disk / "metrics.json")], disk / "metrics.json"),
        ([*evaluate, "--save-predictions", str(disk / "predictions")], disk / "predictions"),
        ([*evaluate, "--visualization", "1", "--log-folder", str(disk)], disk),
        ([*evaluate, "--cache-dir", str(disk / "cache")], disk / "cache"),
        ([*words, "--benchmark", "loader", "--metrics-file", str(disk / "loader.json")], disk / "loader.json"),
    ]
    cases = [{"before": "true", "words": case} for case, _ in away]
    cases[0]["before"] = f"mount -t tmpfs none {disk} && cp -r {logs} {disk}/kept && mount -o remount,ro {disk}"
    for line in refused(run_in_turn(cases), [str(place) for _, place in away]):
        assert "Read-only file system" in line
        outcomes["refused in one line"] += 1
    assert full == {path: path.read_bytes() for path in full}
    assert not temporaries(tmp_path)


def on_full_disks(words: list[str], tmp_path: Path, sizes: list[int]) -> list[tuple[int, dict, Path]]:
    """Run the program with all its output on disks of `sizes` KiB. Returns size, end, and a copy of each disk."""
    disk, cases = tmp_path / "disk", []
    disk.mkdir()
    for size in sizes:
        keep = f"cp -r {disk} {tmp_path}/kept_{cases[-1]['size']} && umount {disk} && " if cases else ""
        cases.append({"size": size, "before": f"{keep}mount -t tmpfs -o size={size}k none {disk}", "words": words})
    cases.append({"before": f"cp -r {disk} {tmp_path}/kept_{sizes[-1]}", "words": ["--help-me"]})  # for the copy alone
    ends = run_in_turn(cases)[:-1]
    return [(size, end, tmp_path / f"kept_{size}") for size, end in zip(sizes, ends, strict=True)]


def outcome(end: dict, kept: Path, disk: Path) -> str:
    """How a program ended on a disk that may have been full: every file must be whole, the error one line."""
    read_all(kept)
    assert not temporaries(kept)
    if end["status"] == 2:
        assert "No space left on device" in refusal(end["errors"]) and str(disk) in end["errors"], end
        return "refused in one line, everything whole"
    assert (end["status"], end["errors"]) == (0, ""), end
    return "enough space"


@pytest.mark.slow
@pytest.mark.tried(DOOR, "a disk that fills up while training, at many places")
def test_disk_fills_up_while_training(streets, weights, tmp_path, outcomes):
    disk = tmp_path / "disk"
    metrics = str(disk / "metrics.json")
    words = training(
        streets, weights, disk, "--multi-step", "1", "2", "3", "--eval-interval", "1", "--metrics-file", metrics
    )
    sizes = [4, 8, 12, 16, 20, 24, 200, 3100, 3250, 6400, 6500, 6520, 9600, 9700, 20000]
    statuses = []
    for size, end, kept in on_full_disks(words, tmp_path, sizes if THOROUGH else sizes[::2]):
        outcomes[outcome(end, kept, disk)] += 1
        statuses.append((end["status"], size, (experiment(kept) / LATEST).is_file()))
    assert statuses[0] == (2, 4, False) and statuses[-1] == (0, 20000, True)


@pytest.mark.slow
@pytest.mark.tried(DOOR, "a disk that fills up while evaluating, at many places")
def test_disk_fills_up_while_evaluating(streets, weights, tmp_path, outcomes):
    disk = tmp_path / "disk"
    words = training(
        streets, weights, disk, "--evaluate", "1", "--resume", "1", "--save-predictions", str(disk / "out"),
        "--visualization", "1", "--metrics-file", str(disk / "metrics.json"),
    )
    sizes = [4, 8, 16, 32, 64, 100, 150, 200, 250, 300, 350, 400, 450, 500, 600, 5000]
    for _, end, kept in on_full_disks(words, tmp_path, sizes if THOROUGH else [4, 100, 350, 5000]):
        outcomes[outcome(end, kept, disk)] += 1
        if end["status"] == 0:
            assert (kept / "metrics.json").read_bytes() == (experiment(kept) / "metrics.json").read_bytes()
    assert len(outcomes) == 2


@pytest.mark.slow
@pytest.mark.tried(
    DOOR, "a disk that fills up while the synthetic streets are made", "refused in one line, no files"
)
@pytest.mark.parametrize("size", [64, 4000])
def test_disk_fills_up_while_making_data(words, tmp_path, size):
    disk = tmp_path / "disk"
    disk.mkdir()
    cases = [{"before": f"mount -t tmpfs -o size={size}k none {disk}",
              "words": [*words, "--data-path", str(disk / "streets")]},
             {"before": f"test -z $(ls -A {disk})", "words": ["--help-me"]}]
    line = refusal(run_in_turn(cases)[0]["errors"])
    assert str(disk / "streets") in line and "No space left on device" in line and "--data-path" in line


@pytest.mark.slow
@pytest.mark.tried(
    DOOR, "too little shared memory for the loader processes", "refused in one line that names --num-worker"
)
def test_small_shared_memory(words):
    end, = run_in_turn([{"before": "mount -t tmpfs -o size=64k none /dev/shm", "words": [*words, "--num-worker", "1"]}])
    assert end["status"] == 2
    line = refusal(end["errors"])
    assert "/dev/shm" in line and "--num-worker" in line
