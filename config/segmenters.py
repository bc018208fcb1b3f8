"""Keyframe segmenters by the names of the command line, native and foreign."""
import re
from pathlib import Path

from config.errors import UserError, did_you_mean

NATIVE = (
    "swiftnet", "bisenet", "pidnet-s", "pidnet-m", "pidnet-l", "ddrnet23-slim", "ddrnet23", "bisenet-xception39",
    "bisenetv2", "deeplab101", "deeplab18", "td4-bise18", "td4-psp18", "accel18",
)
TDNETS = {"bise18": "td4-bise18", "psp18": "td4-psp18"}  # by the names of --tdnet
# Networks that are methods for video themselves, of each method the default first.
VIDEO_NETWORKS = {**dict.fromkeys(TDNETS.values(), "tdnet"), "accel18": "accel"}
OF_PAPER = ("swiftnet", "bisenet")  # segmented at 3/4 of the frame's size in the paper
TORCHVISION, HUGGING_FACE, SMP = "torchvision:", "hf:", "smp:"
FOREIGN = ("torchvision:NAME", "hf:NAME_OR_FOLDER", "smp:ARCH:ENCODER", "smp:FOLDER", "FILE.py:FUNCTION")
_FUNCTION = re.compile(r"(.+\.py):(\w+)", re.DOTALL)


def check_segmenter_name(name: str, option: str = "--segnet") -> None:
    """Raise UserError where `--segnet`, or another option, takes no such name."""
    if name in NATIVE or user_function(name) is not None:
        return
    if any(name.startswith(start) and name != start for start in (TORCHVISION, HUGGING_FACE, SMP)):
        return
    known = (*NATIVE, *FOREIGN)
    raise UserError(f"{option}: invalid value {name!r}{did_you_mean(name, known)}; choose from {', '.join(known)}")


def user_function(name: str) -> tuple[Path, str] | None:
    """File and function of FILE.py:FUNCTION, else None."""
    found = _FUNCTION.fullmatch(name)
    return (Path(found[1]), found[2]) if found else None


def plain_name(name: str) -> str:
    """The name as part of a folder's name; of a file, stem and function."""
    function = user_function(name)
    return re.sub(r"[^A-Za-z0-9._-]", "_", f"{function[0].stem}:{function[1]}" if function else name)


def check_recorded(name: str, weights: str, where: str, option: str = "--segnet") -> None:
    """Raise UserError where building the segmenter that a file of the run `where` names would run a user's code, or
    download something: both happen only when the command line asks for it.

    weights: the file of its weights, if the run had one.
    """
    downloads = name.startswith(TORCHVISION) and not weights
    downloads |= name.startswith(HUGGING_FACE) and not Path(name.removeprefix(HUGGING_FACE)).is_dir()
    if user_function(name) is None and not downloads:
        return
    reason = "may be downloaded" if downloads else "is code that would be run"
    raise UserError(
        f"{where}: was trained on the segmenter {name}, which {reason} only if you ask for it; add {option} {name}"
    )
