"""Downloads the paper's released files from Google Drive (--download), with the package gdown."""
import contextlib
import sys
import textwrap
from pathlib import Path

from config.errors import UserError
from config.options import Options
from models.released import DRIVE_IDS, FLOWNET_FILE, GSVNET_FILES, SEGMENTER_FILES
from utils.checkpoint import WeightsFile, check_digest
from utils.files import check_writable, write_bytes
from utils.folder_lock import alone_in
from utils.logging import logger

FILES = {  # value of --download -> names of files
    "swiftnet": [SEGMENTER_FILES["swiftnet"]], "bisenet": [SEGMENTER_FILES["bisenet"]], "flownet": [FLOWNET_FILE],
    "gsvnet": [*GSVNET_FILES.values()], "all": [*DRIVE_IDS],
}


def run_download(options: Options) -> None:
    """Download the files of --download that --weights-dir lacks; log the SHA-256 of each. Raises UserError."""
    paths = [Path(options.weights_dir) / name for name in FILES[options.download]]
    for path in [path for path in paths if not path.exists()][:1]:
        check_writable(path, "--weights-dir")
    with alone_in(paths[0].parent):  # two downloads would continue the same partial file
        for path in paths:
            if path.exists():
                hint = "delete the file, then --download fetches it"
                file = WeightsFile.read(path, f"the released {path.name}", hint, log=False)
                logger.info("%s: already there, kept; sha256 %s", path, file.digest)
            else:
                logger.info("%s: downloaded; sha256 %s", path, _download(path))


def _download(path: Path) -> str:
    """Download a released file, check it, give it its name `path`. Returns its SHA-256. Raises UserError."""
    page = f"https://drive.google.com/file/d/{DRIVE_IDS[path.name]}"
    by_hand = f"open {page} in a browser and put the file into {path.parent}"
    temporary = path.with_name(f".{path.name}.download")  # gdown adds 8 letters and .part until it is whole
    logger.info("%s: downloading %s", path, page)
    try:
        import gdown

        with contextlib.redirect_stderr(sys.stdout):  # the bar; standard error is for errors alone
            gdown.download(id=DRIVE_IDS[path.name], output=str(temporary), resume=True, timeout=60,
                           use_cookies=False, quiet=not sys.stdout.isatty())
    except (ImportError, TypeError) as error:  # not installed, or too old for these arguments
        fix = f"pip install gdown --upgrade; or {by_hand}"
        raise UserError(f"--download requires the Python package gdown ({error}): {fix}") from error
    except Exception as error:  # gdown's, requests', the disk's, and those of a page that gdown does not understand
        again = f"check the network and repeat the command (delete {temporary}*.part to start again)"
        raise UserError(f"{path}: cannot be downloaded ({_reason(error)}); {again}, or {by_hand}") from error
    except (KeyboardInterrupt, SystemExit):
        logger.info("%s: stopped; repeat the command to continue", path)
        raise
    hint = f"it was not kept; {by_hand}"
    try:
        digest = WeightsFile.read(temporary, f"the released {path.name}", hint, log=False).digest
        check_digest(path, digest, f"; {hint}")
    except UserError:
        temporary.unlink(missing_ok=True)
        raise
    write_bytes(path, temporary.read_bytes())  # not renamed: others cannot read a file of gdown's
    temporary.unlink()
    return digest


def _reason(error: BaseException) -> str:
    """The first error of a chain: that of the network, without what the layers of requests and gdown say about it."""
    while error.__context__ is not None:
        error = error.__context__
    return textwrap.shorten(f"{type(error).__name__}: {error}", 200)
