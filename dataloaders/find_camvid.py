"""CamVid in its usual layouts: the video frames at 30 Hz, and stills as three downloads have them."""
import itertools
import re
from pathlib import Path

from config.folders import advice, contents, listed
from dataloaders.clips import LabelledFrame
from dataloaders.split_scan import SplitScan

NAME = re.compile(r"(?P<seq>[^_]+)_(?P<prefix>\D*)(?P<number>\d+)")
STILLS = (  # folders of labels and frames, what a label's name has after its frame's
    ("{split}annot", "{split}", ""), ("{split}_labels", "{split}", "_L"),
    ("LabeledApproved_full", "701_StillsRaw_full", "_L"),
)
VIDEO_STEP = 2  # numbers between consecutive frames of labelled video (val: 15 Hz, cut from 30 Hz)


def find_camvid(root: Path, split: str, past: int, scan: SplitScan | None = None) -> list[LabelledFrame]:
    """Find the labelled frames of `split`, each with up to `past` frames before it, in whichever layout `root` has.

    Stills: SPLIT/NAME.png with SPLITannot/NAME.png or SPLIT_labels/NAME_L.png, or 701_StillsRaw_full/NAME.png with
    LabeledApproved_full/NAME_L.png; the past is labelled frames of one sequence whose numbers differ by at most two.
    Video: frames/SEQ/NAME.png at 30 Hz with label_id/NAME_L.png. Reports other layouts, and labels without a frame, to
    `scan`; without one, raises the first as a UserError.
    """
    scan = scan or SplitScan()
    if (root / "label_id").is_dir():
        return _find_video(root, split, past, scan)
    for places in STILLS:
        labels, frames, ending = (place.format(split=split) for place in places)
        if (root / labels).is_dir():
            return _find_stills(root / labels, root / frames, ending, split, past, scan)
    scan.report(
        f"{root}: no CamVid here; --data-path must hold either {split}/NAME.png with {split}annot/NAME.png, or "
        f"frames/SEQ/NAME.png with label_id/NAME_L.png; {contents(root)}{advice(root, ['camvid'])}"
    )
    return []


def split_of(name: str) -> str | None:
    """Return the usual split (367 train, 101 val, 233 test) of a labelled frame; None for a name of another form."""
    match = NAME.fullmatch(name)
    if match is None:
        return None
    sequence, number = match["seq"], int(match["number"])
    if sequence == "0001TP":
        return "train" if number <= 8520 else "test"
    if sequence == "0016E5":
        return "val" if 7959 <= number <= 8159 and number % 2 == 1 else "train"
    return {"0006R0": "train", "Seq05VD": "test"}.get(sequence)


def _find_stills(
    folder: Path, frames: Path, ending: str, split: str, past: int, scan: SplitScan
) -> list[LabelledFrame]:
    names = {path: path.stem.removesuffix(ending) for path in listed(folder) if path.name.endswith(f"{ending}.png")}
    shared = split not in folder.name  # by all splits
    labels = {path: name for path, name in names.items() if not shared or split_of(name) == split}
    if not labels:
        scan.report(f"{folder}: holds no labels (NAME.png); {contents(folder)}")
        return []
    found: list[LabelledFrame] = []
    run: list[Path] = []  # consecutive frames up to the current one
    before: tuple[str, int] | None = None
    for label, name in labels.items():
        frame = frames / f"{name}.png"
        if not frame.is_file():
            scan.report_missing(frame, label)
            continue
        match = NAME.fullmatch(name)
        here = (match["seq"], int(match["number"])) if match else (name, 0)
        follows = before is not None and here[0] == before[0] and 0 < here[1] - before[1] <= VIDEO_STEP
        run = [*run, frame] if follows else [frame]
        before = here
        found.append(LabelledFrame(name, tuple(run[-1 - past :]), label, f"{name}_pred.png"))
    unlabelled = (path for path in frames.glob("*.png") if not shared or split_of(path.stem) == split)
    scan.count_unlabelled(unlabelled, {frame.frames[-1] for frame in found}, video=False)
    return found


def _find_video(root: Path, split: str, past: int, scan: SplitScan) -> list[LabelledFrame]:
    found, folder = [], root / "label_id"
    for label in (path for path in listed(folder) if path.name.endswith("_L.png")):
        name = label.stem.removesuffix("_L")
        match = NAME.fullmatch(name)
        if match is None or split_of(name) != split:
            continue
        videos, digits, last = root / "frames" / match["seq"], len(match["number"]), int(match["number"])
        names = (f"{name[:-digits]}{n:0{digits}d}.png" for n in range(last, max(-1, last - past - 1), -1))
        frames = [*itertools.takewhile(Path.is_file, (videos / name for name in names))][::-1]
        if frames:
            found.append(LabelledFrame(name, tuple(frames), label, f"{name}_pred.png"))
        else:
            scan.report_missing(videos / f"{name}.png", label)
    if not found and not scan.problems:
        scan.report(f"{folder}: holds no labels NAME_L.png of the {split} split; {contents(folder)}")
        return []
    candidates = (path for path in root.glob("frames/*/*.png") if split_of(path.stem) == split)
    scan.count_unlabelled(candidates, {frame.frames[-1] for frame in found}, video=True)
    return found
