"""--download: whole, checked files under the released names, or one line; an interrupted download continues.

Most tests run twice: with a stand-in for gdown, and with gdown itself if installed, and a stand-in for Google.
"""
import fcntl
import hashlib
import importlib.util
import inspect
import io
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from config.options import DOWNLOADS
from main import main
from models.download import FILES
from models.released import DRIVE_IDS
from tests.main.program import ROOT, refusal

FIRST = 100  # bytes that arrive before an error
SWIFTNET = "cityscapes-swnet-R18.pt"
needs_gdown = pytest.mark.skipif(importlib.util.find_spec("gdown") is None, reason="gdown is not installed")


def torch_file(value: float) -> bytes:
    torch.save({"tensor": torch.tensor(value)}, file := io.BytesIO())
    return file.getvalue()


class Drive:
    """The release by id; `error` is raised after the first bytes. asked: (id, offset) of all that was sent."""

    def __init__(self):
        self.files = {number: torch_file(place) for place, number in enumerate(DRIVE_IDS.values())}
        self.error, self.asked, self.meanwhile = None, [], lambda: None

    def sent(self, number, offset):
        self.asked.append((number, offset))
        self.meanwhile()
        yield self.files[number][offset : offset + FIRST]
        if self.error is not None:
            raise self.error
        yield self.files[number][offset + FIRST :]

    def download(self, *, id, output, resume, timeout, use_cookies, quiet):
        """In place of gdown.download."""
        parts = list(Path(output).parent.glob(f"{Path(output).name}*.part")) if resume else []
        part = parts[0] if parts else Path(f"{output}_8_chars.part")
        with open(part, "ab") as file:
            file.writelines(self.sent(id, file.tell()))
        part.rename(output)
        if not quiet:
            print("100%", file=sys.stderr)

    def get(self, url, headers=None, **_):
        """In place of requests.Session.get: Google Drive's answers."""
        import requests

        number, answer = url.split("id=")[1], requests.Response()
        offset, size = int(re.sub(r"\D", "", (headers or {}).get("Range", "0"))), len(self.files[number])
        answer.url, answer.status_code = url, 206 if offset else 200
        answer.headers["Content-Type"], answer.headers["Content-Length"] = "application/octet-stream", size - offset
        if self.files[number].startswith(b"<html>"):
            answer.headers["Content-Type"] = "text/html"
        else:
            answer.headers["Content-Disposition"] = 'attachment; filename="another name"'
        if offset:
            answer.headers["Content-Range"] = f"bytes {offset}-{size - 1}/{size}"
        pieces = self.sent(number, offset)
        answer.raw = SimpleNamespace(read=lambda _: next(pieces, b""), close=lambda: None)
        return answer


@pytest.fixture(params=["stand-in", pytest.param("gdown", marks=needs_gdown)])
def drive(request, monkeypatch):
    drive = Drive()
    if request.param == "gdown":
        monkeypatch.setattr("requests.Session.get", lambda _, *words, **named: drive.get(*words, **named))
    else:
        monkeypatch.setitem(sys.modules, "gdown", SimpleNamespace(download=drive.download))
    return drive


def download(what: str, folder: Path) -> int:
    return main(["--download", what, "--weights-dir", str(folder), "--device", "cpu"])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("what, number", [("swiftnet", 1), ("bisenet", 1), ("flownet", 1), ("gsvnet", 2), ("all", 5)])
def test_files_get_the_released_names(drive, tmp_path, capsys, what, number):
    (ordinary := tmp_path / "ordinary").touch()
    folder = tmp_path / "new" / "weights"  # neither exists
    assert download(what, folder) == 0
    out, err = capsys.readouterr()
    assert err == "" and drive.asked == [(DRIVE_IDS[name], 0) for name in FILES[what]]
    assert names(folder) == sorted(FILES[what]) and len(FILES[what]) == number
    for name in FILES[what]:
        content = (folder / name).read_bytes()
        assert content == drive.files[DRIVE_IDS[name]]
        assert f"{folder / name}: downloaded; sha256 {hashlib.sha256(content).hexdigest()}\n" in out
        assert (folder / name).stat().st_mode == ordinary.stat().st_mode


def test_a_terminal_shows_the_bar_on_standard_output(drive, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert download("flownet", tmp_path) == 0
    out, err = capsys.readouterr()
    assert "100%" in out and err == ""


def test_existing_file_is_kept(drive, tmp_path, monkeypatch, capsys):
    kept = tmp_path / "gsvnet_swnet_r18.tar"
    kept.write_bytes(torch_file(99))
    assert download("gsvnet", tmp_path) == 0
    assert [number for number, _ in drive.asked] == [DRIVE_IDS["gsvnet_bisenet_r18.tar"]]
    digest = hashlib.sha256(torch_file(99)).hexdigest()
    assert kept.read_bytes() == torch_file(99)
    assert f"{kept}: already there, kept; sha256 {digest}\n" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "gdown", None)  # what is there needs no package
    assert download("gsvnet", tmp_path) == 0
    kept.write_bytes(b"damaged")
    assert download("gsvnet", tmp_path) == 2
    line = refusal(capsys.readouterr().err)
    assert f"{kept}: cannot be read" in line and line.endswith("; delete the file, then --download fetches it")
    assert kept.read_bytes() == b"damaged"


@pytest.mark.parametrize("error, status", [(KeyboardInterrupt(), 130), (ConnectionError("the line went dead"), 2)])
def test_interrupted_download_continues(drive, tmp_path, capsys, error, status):
    drive.error = error
    assert download("swiftnet", tmp_path) == status
    out, err = capsys.readouterr()
    [part] = names(tmp_path)
    assert part.startswith(f".{SWIFTNET}.download") and part.endswith(".part")
    assert (tmp_path / part).stat().st_size == FIRST
    if status == 130:
        assert f"{tmp_path / SWIFTNET}: stopped; repeat the command to continue" in out and err == ""
    drive.error = None
    assert download("swiftnet", tmp_path) == 0
    assert drive.asked == [(DRIVE_IDS[SWIFTNET], 0), (DRIVE_IDS[SWIFTNET], FIRST)]
    assert names(tmp_path) == [SWIFTNET] and (tmp_path / SWIFTNET).read_bytes() == drive.files[DRIVE_IDS[SWIFTNET]]


PAGE = b'<html><p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently.</p></html>'


@pytest.mark.parametrize("content", [PAGE, b"", torch_file(0)[:-50]])
def test_what_is_not_a_torch_file_is_refused(drive, tmp_path, capsys, content):
    drive.files[DRIVE_IDS[SWIFTNET]] = content
    assert download("swiftnet", tmp_path) == 2
    line = refusal(capsys.readouterr().err)
    assert re.search(rf"cannot be read as the released {SWIFTNET} .*it was not kept|FileURL\w+: Too many users", line)
    assert line.endswith(f"open https://drive.google.com/file/d/{DRIVE_IDS[SWIFTNET]} in a browser and put the file "
                         f"into {tmp_path}")
    assert names(tmp_path) == []


def test_another_file_than_the_listed_one_is_refused(drive, tmp_path, capsys):
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  {SWIFTNET}\n")
    assert download("swiftnet", tmp_path) == 2
    assert f"SHA256SUMS lists {'0' * 64}" in refusal(capsys.readouterr().err)
    assert names(tmp_path) == ["SHA256SUMS"]


def chained() -> Exception:
    """As requests raises it: the reason is inside."""
    try:
        try:
            raise OSError("Name or service not known")
        except OSError as error:
            raise ConnectionError("HTTPSConnectionPool(host='drive.google.com'): Max retries exceeded") from error
    except ConnectionError as error:
        return error


@pytest.mark.parametrize("error, reason", [
    (chained(), "OSError: Name or service not known"), (KeyError("Content-Type"), "KeyError: 'Content-Type'"),
    (OSError(28, "No space left on device"), "No space left on device"),
    (Exception("two\n\n\tlines"), "Exception: two lines"),
])
def test_failed_download_is_one_line(drive, tmp_path, capsys, error, reason):
    drive.error = error
    assert download("swiftnet", tmp_path) == 2
    line = refusal(capsys.readouterr().err)
    assert line.startswith(f"error: {tmp_path / SWIFTNET}: cannot be downloaded (")
    assert f"{reason}); check the network and repeat the command" in line
    assert f"or open https://drive.google.com/file/d/{DRIVE_IDS[SWIFTNET]} in a browser" in line
    assert not (tmp_path / SWIFTNET).exists()


@pytest.mark.parametrize("package", [None, SimpleNamespace(download=lambda *, id, output, quiet: None)])
def test_package_missing_or_too_old(tmp_path, monkeypatch, capsys, package):
    monkeypatch.setitem(sys.modules, "gdown", package)
    assert download("flownet", tmp_path) == 2
    line = refusal(capsys.readouterr().err)
    assert re.search(r"the Python package gdown \((.*gdown.*|.*argument.*)\): pip install gdown --upgrade; or", line)
    assert f"or open https://drive.google.com/file/d/{DRIVE_IDS['flownet.pth.tar']} in a browser" in line


@pytest.mark.parametrize("place", ["/dev/null/x", "file"])
def test_folder_that_cannot_be_written(drive, tmp_path, capsys, place):
    (tmp_path / "file").touch()
    assert download("all", tmp_path / place) == 2
    line = refusal(capsys.readouterr().err)
    assert re.search(r"--weights-dir \S+: cannot be written \(.*\); choose another place", line)
    assert drive.asked == []


def test_one_download_at_a_time(drive, tmp_path):
    def refused():
        descriptor = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)

    drive.meanwhile = refused
    assert download("flownet", tmp_path) == 0 and len(drive.asked) == 1


def test_first_process_alone_downloads(drive, tmp_path, monkeypatch):
    from utils.distributed import Ranks

    monkeypatch.setattr("utils.distributed.join", lambda *_: Ranks(1, 2))
    assert download("all", tmp_path) == 0
    assert drive.asked == [] and names(tmp_path) == []


@pytest.mark.parametrize("words, message", [
    (["--evaluate", "1"], "--evaluate 1 and --download exclude each other; choose one"),
    (["--flow-weights", "f"], "--flow-weights f has no effect with --download; drop it"),
])
def test_other_options_with_it(words, message, capsys):
    assert main(["--download", "all", *words]) == 2
    assert message in refusal(capsys.readouterr().err)


def test_names_and_ids_are_those_of_the_documents():
    assert tuple(FILES) == DOWNLOADS
    rows = re.findall(r"^\| `(\S+)` \|.*\| `(\S{33})` \|$", (ROOT / "weights" / "README.md").read_text(), re.MULTILINE)
    assert dict(rows) == DRIVE_IDS


@needs_gdown
def test_gdown_takes_the_arguments(monkeypatch, tmp_path):
    import gdown

    signature, seen = inspect.signature(gdown.download), []
    monkeypatch.setattr(gdown, "download", lambda *words, **named: seen.append(signature.bind(*words, **named)))
    assert download("flownet", tmp_path) == 2  # nothing was written
    assert seen[0].arguments["resume"] is True and seen[0].arguments["id"] == DRIVE_IDS["flownet.pth.tar"]
