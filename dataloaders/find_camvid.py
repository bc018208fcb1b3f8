"""CamVid in its two usual layouts: the video frames at 30 Hz, and the common 360 x 480 stills."""
import re
from pathlib import Path

from config.errors import UserError
from config.folders import advice, contents, listed
from dataloaders.clips import LabelledFrame

NAME = re.compile(r"(?P<seq>[^_]+)_(?P<prefix>\D*)(?P<number>\d+)")
VIDEO_STEP = 2  # numbers between consecutive frames of labelled video (val: 15 Hz, cut from 30 Hz)


def find_camvid(root: Path, split: str, past: int) -> list[LabelledFrame]:
    """Labelled frames of `split` with up to `past` frames before them, from whichever layout `root` holds.

    Stills: SPLIT/NAME.png with SPLITannot/NAME.png; there, a frame's past is the labelled frames of its sequence at most
    two numbers apart. Video: frames/SEQ/NAME.png at 30 Hz with label_id/NAME_L.png. Raises UserError for anything else.
    """
    if (root / "label_id").is_dir():
        return _find_video(root, split, past)
    if (root / f"{split}annot").is_dir():
        return _find_stills(root, split, past)
    raise UserError(
        f"{root}: no CamVid here; --data-path wants either {split}/NAME.png with {split}annot/NAME.png, or "
        f"frames/SEQ/NAME.png with label_id/NAME_L.png; {contents(root)}{advice(root, ['camvid'])}"
    )


def split_of(name: str) -> str | None:
    """The usual split (367 train, 101 val, 233 test) that a labelled frame belongs to."""
    match = NAME.fullmatch(name)
    if match is None:
        return None
    sequence, number = match["seq"], int(match["number"])
    if sequence == "0001TP":
        return "train" if number <= 8520 else "test"
    if sequence == "0016E5":
        return "val" if 7959 <= number <= 8159 and number % 2 == 1 else "train"
    return {"0006R0": "train", "Seq05VD": "test"}.get(sequence)


def _find_stills(root: Path, split: str, past: int) -> list[LabelledFrame]:
    folder = root / f"{split}annot"
    labels = [path for path in listed(folder) if path.suffix == ".png"]
    if not labels:
        raise UserError(f"{folder}: holds no labels (NAME.png); {contents(folder)}")
    found: list[LabelledFrame] = []
    run: list[Path] = []  # consecutive frames up to the present one
    before: tuple[str, int] | None = None
    for label in labels:
        frame = root / split / label.name
        if not frame.is_file():
            raise UserError(f"{frame}: missing, but {label} labels it; restore it, or remove the label")
        match = NAME.fullmatch(label.stem)
        here = (match["seq"], int(match["number"])) if match else (label.stem, 0)
        follows = before is not None and here[0] == before[0] and 0 < here[1] - before[1] <= VIDEO_STEP
        run = [*run, frame] if follows else [frame]
        before = here
        found.append(LabelledFrame(label.stem, tuple(run[-1 - past :]), label, f"{label.stem}_pred.png"))
    return found


def _find_video(root: Path, split: str, past: int) -> list[LabelledFrame]:
    found, folder = [], root / "label_id"
    for label in (path for path in listed(folder) if path.name.endswith("_L.png")):
        name = label.stem.removesuffix("_L")
        match = NAME.fullmatch(name)
        if match is None or split_of(name) != split:
            continue
        digits = len(match["number"])
        frames: list[Path] = []
        for number in range(int(match["number"]), int(match["number"]) - past - 1, -1):
            path = root / "frames" / match["seq"] / f"{match['seq']}_{match['prefix']}{number:0{digits}d}.png"
            if number < 0 or not path.is_file():
                break
            frames.insert(0, path)
        if not frames:
            frame = root / "frames" / match["seq"] / f"{name}.png"
            raise UserError(f"{frame}: missing, but {label} labels it; restore it, or remove the label")
        found.append(LabelledFrame(name, tuple(frames), label, f"{name}_pred.png"))
    if not found:
        raise UserError(f"{folder}: holds no labels NAME_L.png of the {split} split; {contents(folder)}")
    return found
