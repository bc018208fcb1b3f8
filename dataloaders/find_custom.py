"""A user's own data set: what its description's globs find on disk."""
import glob
import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from config.custom import WILDCARD, CustomData, Part, read_custom, wildcards
from config.errors import UserError
from config.folders import contents, natural, nearest
from dataloaders.clips import LabelledFrame
from utils.logging import logger

Key = tuple[str, ...]  # what the wildcards of a glob stand for in one path
NUMBER = re.compile(r"(?P<before>.*?)(?P<number>[0-9]+)[^0-9]*")


def find_custom(root: Path, split: str, past: int) -> list[LabelledFrame]:
    """Labelled frames of `split` of the description at `root`, with up to `past` frames before them, in order of the videos.

    Raises UserError where globs find nothing, or frames and labels do not pair.
    """
    data = read_custom(str(root))
    if split not in data.splits:
        raise UserError(f"{data.file}: describes no {split} split; add {split}: {{frames: GLOB, labels: GLOB}}")
    found = [pair for part in data.splits[split] for pair in _find_part(data, split, part, past)]
    names = _names(data, split, [frames[-1] for frames, _ in found])
    return [
        LabelledFrame(name, frames, label, f"{name}_pred.png") for name, (frames, label) in zip(names, found)
    ]


def _find_part(data: CustomData, split: str, part: Part, past: int) -> Iterator[tuple[tuple[Path, ...], Path]]:
    """Each labelled frame behind its past, and its label."""
    folder, where = data.file.parent, f"{data.file}: {split}"
    for pattern in (part.frames, part.labels):
        _refuse_what_glob_hides(folder, pattern)
    frames = matches(folder, part.frames, f"{where}: frames")
    labels = matches(folder, part.labels, f"{where}: labels")
    frames = {path: key for path, key in frames.items() if path not in labels}  # which may lie in the same folder
    if not frames:
        raise UserError(f"{where}: {part.frames} of frames matches nothing but the labels; give it the frames' names or ending")
    label_of = _pair(frames, labels, part, where)
    videos = list(_videos(frames, part))
    if part.video and part.step is None:
        _say_gaps(videos, frames, where)
    for video in videos:
        for t, frame in enumerate(video):
            if frame in label_of:
                yield tuple(video[max(0, t - past) : t + 1]), label_of[frame]


def matches(folder: Path, pattern: str, where: str) -> dict[Path, Key]:
    """Files that `pattern` matches, in natural order, with what its wildcards stand for in each."""
    found = [Path(name) for name in glob.glob(pattern, root_dir=folder, recursive=True)]
    found = [path for path in found if (folder / path).is_file()]
    if not found:
        raise UserError(f"{where}: {pattern} matches no file; it is looked for in {folder}; {contents(nearest(folder / pattern))}")
    found.sort(key=lambda path: (natural(path.parent), str(path.parent), natural(Path(path.name)), path.name))
    return {folder / path: _key(Path(pattern), path) for path in found}


def _refuse_what_glob_hides(folder: Path, pattern: str) -> None:
    """Raise UserError for folders that may not be listed, and for links to nothing: without them, frames that do not follow one
    another would seem to."""
    parts = Path(pattern).parts
    for depth in range(len(parts)):
        for name in glob.glob(os.path.join(*parts[:depth], ""), root_dir=folder, recursive=True) if depth else [""]:
            if not os.access(folder / name, os.R_OK | os.X_OK):
                raise UserError(f"{folder / name}: cannot be listed (Permission denied); mend its permissions")
    for name in glob.iglob(pattern, root_dir=folder, recursive=True):
        if not os.path.exists(folder / name):
            raise UserError(f"{folder / name}: a link to what is not there; restore that, or remove the link")


def _key(pattern: Path, path: Path) -> Key:
    """Texts that the wildcards stand for, one for each part of the pattern that has any; the file's ending left out."""
    texts = [*path.parts[:-1], path.stem]
    expected = [*pattern.parts[:-1], pattern.stem]
    if "**" in expected:  # any number of folders
        at = expected.index("**")
        rest = len(texts) - (len(expected) - at - 1)
        texts[at:rest] = ["/".join(texts[at:rest])]
    key = []
    for index in wildcards(str(pattern)):
        found = list(WILDCARD.finditer(expected[index]))
        key.append(texts[index][found[0].start() : len(texts[index]) - (len(expected[index]) - found[-1].end())])
    return tuple(key)


def _pair(frames: dict[Path, Key], labels: dict[Path, Key], part: Part, where: str) -> dict[Path, Path]:
    """The label of each labelled frame: the one for which the wildcards stand for the same texts.

    Where one glob has fewer wildcards than the other, as many are compared, from the last.
    """
    compared = min(len(wildcards(part.frames)), len(wildcards(part.labels)))
    frames_of: dict[Key, list[Path]] = {}
    for frame, key in frames.items():
        frames_of.setdefault(key[-compared:], []).append(frame)
    label_of: dict[Path, Path] = {}
    for label, key in labels.items():
        text = "/".join(key[-compared:])
        candidates = frames_of.get(key[-compared:], [])
        if not candidates:
            raise UserError(
                f"{label}: no frame for this label: no file of {part.frames} has {text!r} where {part.labels} has it; "
                f"add the frame, or mend the globs of {where}"
            )
        if len(candidates) > 1:
            raise UserError(
                f"{label}: two frames for this label, {candidates[0]} and {candidates[1]}; narrow the glob of the frames of "
                f"{where}, or give both globs wildcards for the folders"
            )
        if candidates[0] in label_of:
            raise UserError(
                f"{candidates[0]}: two labels for this frame, {label_of[candidates[0]]} and {label}; narrow the glob of the "
                f"labels of {where}"
            )
        label_of[candidates[0]] = label
    return label_of


def _videos(frames: dict[Path, Key], part: Part) -> Iterator[list[Path]]:
    """The frames, which are in natural order, as runs of consecutive ones."""
    for _, folder in itertools.groupby(frames, key=lambda path: path.parent):
        video: list[Path] = []
        for frame in folder:
            if video and not _follows(video[-1], frame, frames, part):
                yield video
                video = []
            video.append(frame)
        yield video


def _follows(before: Path, frame: Path, frames: dict[Path, Key], part: Part) -> bool:
    if not part.video or part.step is None:
        return part.video
    first, second = (_number(path, frames[path][-1]) for path in (before, frame))
    return first[0] == second[0] and second[1] - first[1] <= part.step


def _say_gaps(videos: Sequence[Sequence[Path]], frames: dict[Path, Key], where: str) -> None:
    """Without `step`, a lost frame goes unnoticed: say where the frames' numbers suggest that some are."""
    steps: dict[Path, int] = {}
    for before, frame in itertools.chain.from_iterable(map(itertools.pairwise, videos)):
        first, second = (NUMBER.fullmatch(frames[path][-1]) for path in (before, frame))
        if first is not None and second is not None and first["before"] == second["before"]:
            steps[frame] = int(second["number"]) - int(first["number"])
    ((usual, count),) = Counter(steps.values()).most_common(1) or [(0, 0)]
    gaps = [frame for frame, step in steps.items() if step > usual]
    if gaps and 2 * count > len(steps):
        logger.info(
            "%s: %d of %d frames are numbered more than %d above the one before, %s first; if frames are missing, step: %d begins a "
            "new video there", where, len(gaps), len(frames), usual, gaps[0], usual,
        )


def _number(path: Path, text: str) -> tuple[str, int]:
    """The last number in `text`, behind the text before it."""
    match = NUMBER.fullmatch(text)
    if match is None:
        raise UserError(f"{path}: no number in {text!r}, but step compares numbers; leave step out, or number the frames")
    return match["before"], int(match["number"])


def _names(data: CustomData, split: str, frames: Sequence[Path]) -> list[str]:
    """Names that differ: of the files without ending, behind as many of their folders as it takes."""
    depth = 1
    while True:
        names = ["_".join(frame.with_suffix("").parts[-depth:]).replace("/", "") for frame in frames]  # of the root folder
        if len(set(names)) == len(names):
            return names
        if depth >= max(len(frame.parts) for frame in frames):
            twice = next(i for i, name in enumerate(names) if name in names[:i])
            other = frames[names.index(names[twice])]
            raise UserError(f"{data.file}: {split}: {other} and {frames[twice]} are labelled frames of one name; leave one out")
        depth += 1
