"""A user's own data set: the files that the globs of its description match."""
import glob
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from config.custom import WILDCARD, CustomData, Part, read_custom, wildcards
from config.errors import UserError
from config.folders import contents, natural, nearest
from dataloaders.clips import LabelledFrame
from dataloaders.split_scan import NO_FRAME, SplitScan
from utils.logging import logger

Key = tuple[str, ...]  # texts that the wildcards of a glob match in one path
SEPARATOR = re.compile(r"[\t,]")
PRESENT = ("1", "0", "-1")  # in VOC's lists of one class: it is there, hard to see, not there
NUMBER = re.compile(r"(?P<before>.*?)(?P<number>[0-9]+)[^0-9]*")


def find_custom(root: Path, split: str, past: int, scan: SplitScan | None = None) -> list[LabelledFrame]:
    """Find the labelled frames of `split` that the description at `root` names, in order of the videos.

    Each comes with up to `past` frames before it. Reports globs that match nothing, and frames and labels that do not
    pair, to `scan`; without one, raises the first as a UserError.
    """
    scan, data = scan or SplitScan(), read_custom(str(root))
    if split not in data.splits:
        scan.report(f"{data.file}: describes no {split} split; add {split}: {{frames: GLOB, labels: GLOB}}")
    found: list[tuple[tuple[Path, ...], Path]] = []
    for part in data.splits.get(split, ()):
        with scan.reporting():
            found.extend(_find_part(data, split, part, past, scan))
    names = _names([frames[-1] for frames, _ in found], f"{data.file}: {split}", scan)
    return [LabelledFrame(name, frames, label, f"{name}_pred.png") for name, (frames, label) in zip(names, found)]


def _find_part(
    data: CustomData, split: str, part: Part, past: int, scan: SplitScan
) -> Iterator[tuple[tuple[Path, ...], Path]]:
    """Yield each labelled frame at the end of its past, and its label."""
    folder, where = data.file.parent, f"{data.file}: {split}"
    for pattern in filter(None, (part.frames, part.labels)):
        _check_hidden_by_glob(folder, pattern, scan)
    frames = matches(folder, part.frames, f"{where}: frames") if part.frames else {}
    labels = matches(folder, part.labels, f"{where}: labels") if part.labels else {}
    pairs, stems = _read_list(folder, part.list, scan) if part.list else ({}, {})
    if part.list and not (pairs or (frames and labels)):
        raise UserError(f"{folder / part.list}: a list of stems requires frames: GLOB and labels: GLOB too, in {where}")
    if pairs:
        frames = frames | {path: (path.stem,) for path in pairs if path not in frames}
        frames = dict(sorted(frames.items(), key=lambda item: _by_number(item[0])))
    frames = {path: key for path, key in frames.items() if path not in labels}  # both may be in one folder
    if not frames:
        raise UserError(f"{where}: {part.frames} of frames matches only the labels; add the frames' names or ending")
    if stems:
        labels = _chosen(labels, stems, folder / part.list, scan)
    label_of = pairs or _pair(frames, labels, part, where, scan)
    videos = list(_videos(frames, part, scan))
    if part.video and part.step is None:
        _log_gaps(videos, frames, where)
    scan.count_unlabelled(frames, label_of, video=part.video)
    for video in videos:
        for t, frame in enumerate(video):
            if frame in label_of:
                yield tuple(video[max(0, t - past) : t + 1]), label_of[frame]


def _read_list(folder: Path, name: str, scan: SplitScan) -> tuple[dict[Path, Path], dict[str, int]]:
    """Read a split list: labels by frame, of lines with two paths relative to `folder`; line numbers by stem."""
    file, pairs, stems = folder / name, dict[Path, Path](), dict[str, int]()
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{file}: cannot be read ({reason}); correct list: in the description") from error
    for number, line in enumerate(lines, 1):
        words = line.split() if not SEPARATOR.search(line) else [word.strip() for word in SEPARATOR.split(line)]
        if not words or words[0].startswith("#"):
            continue
        if len(words) > 2:
            raise UserError(f"{file}, line {number}: {len(words)} words; write one stem, or a frame and its label")
        if len(words) == 1 or words[1] in PRESENT:
            if words[1:] != ["-1"]:
                stems[words[0]] = number
            continue
        frame, label = (folder / word if Path(word).is_file() else folder / word.lstrip("/") for word in words)
        for path in (path for path in (frame, label) if not path.is_file()):
            scan.report(f"{path}: no such file, but {file} names it in line {number}; correct the line", NO_FRAME)
        if frame == label or pairs.get(frame, label) != label:
            reason = "names one file twice" if frame == label else f"{pairs[frame]} labels this frame already"
            scan.report(f"{file}, line {number}: {reason}; correct the line")
        if frame.is_file() and label.is_file():
            pairs[frame] = label
    if pairs and stems:
        raise UserError(f"{file}, line {min(stems.values())}: a stem among pairs of frame and label; write one kind")
    if not pairs and not stems:
        raise UserError(f"{file}: empty; write one stem, or a frame and its label, a line")
    return pairs, stems


def _chosen(labels: Mapping[Path, Key], stems: Mapping[str, int], file: Path, scan: SplitScan) -> dict[Path, Key]:
    """The labels in which the wildcards match a listed stem: of the file, of a folder, or of both joined by /."""
    found = {path: {*key, "/".join(key), path.name} & {*stems} for path, key in labels.items()}
    for stem in {*stems} - {stem for matched in found.values() for stem in matched}:
        scan.report(f"{file}, line {stems[stem]}: no label has {stem!r} where its glob has wildcards; correct the line")
    return {path: key for path, key in labels.items() if found[path]}


def _by_number(path: Path) -> tuple:
    """Sorting key of frames: by folder, then by name, numbers by value."""
    return natural(path.parent), str(path.parent), natural(Path(path.name)), path.name


def matches(folder: Path, pattern: str, where: str) -> dict[Path, Key]:
    """Return the files that `pattern` matches, in natural order, with the texts that its wildcards match in each.

    Raises UserError where there is none.
    """
    found = [Path(name) for name in glob.glob(pattern, root_dir=folder, recursive=True)]
    found = [path for path in found if (folder / path).is_file()]
    if not found:
        there = contents(nearest(folder / pattern))
        raise UserError(f"{where}: {pattern} matches no file; it is relative to {folder}; {there}")
    found.sort(key=_by_number)
    return {folder / path: _key(Path(pattern), path) for path in found}


def _check_hidden_by_glob(folder: Path, pattern: str, scan: SplitScan) -> None:
    """Report folders that cannot be listed and broken links: a glob skips them, and a gap in a video goes unnoticed."""
    parts = Path(pattern).parts
    for depth in range(len(parts)):
        for name in glob.glob(os.path.join(*parts[:depth], ""), root_dir=folder, recursive=True) if depth else [""]:
            if not os.access(folder / name, os.R_OK | os.X_OK):
                scan.report(f"{folder / name}: cannot be listed (Permission denied); change its permissions")
    for name in glob.iglob(pattern, root_dir=folder, recursive=True):
        if not os.path.exists(folder / name):
            scan.report(f"{folder / name}: a link to a missing file; restore the file, or remove the link")


def _key(pattern: Path, path: Path) -> Key:
    """Return the texts that the wildcards match, one for each part of the pattern that has any; without the ending."""
    texts, expected = [*path.parts[:-1], path.stem], [*pattern.parts[:-1], pattern.stem]
    if "**" in expected:  # any number of folders
        at = expected.index("**")
        rest = len(texts) - (len(expected) - at - 1)
        texts[at:rest] = ["/".join(texts[at:rest])]
    key = []
    for index in wildcards(str(pattern)):
        found = list(WILDCARD.finditer(expected[index]))
        key.append(texts[index][found[0].start() : len(texts[index]) - (len(expected[index]) - found[-1].end())])
    return tuple(key)


def _pair(
    frames: Mapping[Path, Key], labels: Mapping[Path, Key], part: Part, where: str, scan: SplitScan
) -> dict[Path, Path]:
    """Return the label of each labelled frame: the one in which the wildcards match the same texts.

    Where one glob has fewer wildcards than the other, that many are compared, counted from the last.
    """
    compared = min(len(wildcards(part.frames)), len(wildcards(part.labels)))
    frames_of: dict[Key, list[Path]] = {}
    for frame, key in frames.items():
        frames_of.setdefault(key[-compared:], []).append(frame)
    label_of: dict[Path, Path] = {}
    for label, key in labels.items():
        candidates = frames_of.get(key[-compared:], [])
        if not candidates:
            scan.report(
                f"{label}: no frame for this label: no file of {part.frames} has {'/'.join(key[-compared:])!r} where "
                f"{part.labels} has it; add the frame, or correct the globs of {where}", NO_FRAME,
            )
        elif len(candidates) > 1:
            scan.report(
                f"{label}: two frames for this label, {candidates[0]} and {candidates[1]}; narrow the glob of the "
                f"frames of {where}, or use wildcards for the folders in both globs"
            )
        elif candidates[0] in label_of:
            scan.report(
                f"{candidates[0]}: two labels for this frame, {label_of[candidates[0]]} and {label}; narrow the glob "
                f"of the labels of {where}"
            )
        label_of |= dict.fromkeys(candidates[:1], label)
    return label_of


def _videos(frames: Mapping[Path, Key], part: Part, scan: SplitScan) -> Iterator[list[Path]]:
    """Yield the frames, which are in natural order, as runs of consecutive ones."""
    for _, folder in itertools.groupby(frames, key=lambda path: path.parent):
        video: list[Path] = []
        for frame in folder:
            if video and not _follows(video[-1], frame, frames, part, scan):
                yield video
                video = []
            video.append(frame)
        yield video


def _follows(before: Path, frame: Path, frames: Mapping[Path, Key], part: Part, scan: SplitScan) -> bool:
    """Return whether `frame` continues the video of `before`: by `step`, it compares their last numbers."""
    if not part.video or part.step is None:
        return part.video
    first, second = (NUMBER.fullmatch(frames[path][-1]) for path in (before, frame))
    if first is None or second is None:
        path = before if first is None else frame
        text = frames[path][-1]
        scan.report(f"{path}: no number in {text!r}, but step compares numbers; remove step, or number the frames")
        return False
    return first["before"] == second["before"] and int(second["number"]) - int(first["number"]) <= part.step


def _log_gaps(videos: Sequence[Sequence[Path]], frames: Mapping[Path, Key], where: str) -> None:
    """Log where the frames' numbers suggest that some are missing: without `step`, no gap is detected."""
    steps: dict[Path, int] = {}
    for before, frame in itertools.chain.from_iterable(map(itertools.pairwise, videos)):
        first, second = (NUMBER.fullmatch(frames[path][-1]) for path in (before, frame))
        if first is not None and second is not None and first["before"] == second["before"]:
            steps[frame] = int(second["number"]) - int(first["number"])
    ((usual, count),) = Counter(steps.values()).most_common(1) or [(0, 0)]
    gaps = [frame for frame, step in steps.items() if step > usual]
    if gaps and 2 * count > len(steps):
        logger.info(
            "%s: the numbers of %d of %d frames are more than %d above the previous one, first at %s; if frames are "
            "missing, add step: %d to begin a new video there", where, len(gaps), len(frames), usual, gaps[0], usual,
        )


def _names(frames: Sequence[Path], where: str, scan: SplitScan) -> list[str]:
    """Return unique names: of the files without ending, after as many of their folders as it takes."""
    for depth in range(1, max((len(frame.parts) for frame in frames), default=1) + 1):
        names = ["_".join(frame.with_suffix("").parts[-depth:]).replace("/", "") for frame in frames]  # / of the root
        if len(set(names)) == len(names):
            return names
    twice = next(i for i, name in enumerate(names) if name in names[:i])
    other = frames[names.index(names[twice])]
    scan.report(f"{where}: the labelled frames {other} and {frames[twice]} have the same name; remove one")
    return names
