"""Command line: goes through the labelled frames of a data set and lists what a training would stop at, or learn wrongly."""
import argparse
import hashlib
import math
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NoReturn

import cv2
import numpy as np

from config.custom import SPLITS, Part, read_custom, wildcards
from config.datasets import CUSTOM, NAMES, dataset_config
from config.errors import UserError
from config.schema import DatasetConfig
from dataloaders.clips import LabelledFrame
from dataloaders.eval_videos import videos_of
from dataloaders.find_camvid import split_of
from dataloaders.find_cityscapes import FRAMES, LABELS, STILLS
from dataloaders.find_custom import Key, matches
from dataloaders.images import content_of, label_table, read_ids, read_image, turned
from dataloaders.label_check import strangeness
from dataloaders.loaders import labelled_frames, prepare_data
from utils.files import write_json
from utils.logging import progress_bar
from utils.visualize import grid, legend, overlay, with_caption, write_picture

PAST = 4  # frames before a labelled one that are looked at: as many as the recipe uses
USUAL_VOID = (250, 255)
SHOWN = 20  # problems of a kind on the console; check.json has all
NARROWEST, WIDEST = 480, 1024  # half an overlay picture, pixels
MISPLACED, UNREADABLE, NO_IDS = "files that are not where they should be", "unreadable files", "labels that hold no ids"


class Problem(NamedTuple):
    kind: str
    split: str
    text: str


@dataclass(frozen=True)
class Found:
    """Labelled frames of a split. whole: their pasts are known. unlabelled: frames of videos, where labels may be rare.

    void: ids that the data set keeps for what is no class.
    """

    frames: Sequence[LabelledFrame]
    whole: bool
    unlabelled: int
    void: range
    problems: Sequence[Problem]


@dataclass(frozen=True)
class Seen:
    """One file. fault, kind: why it cannot be used. size: "width x height". ids: (256,) pixels of each id of a label. turned:
    whether viewers show a frame otherwise than it is read."""

    digest: bytes = b""
    size: str = ""
    ids: np.ndarray | None = None
    fault: str = ""
    kind: str = UNREADABLE
    turned: bool = False


def find(dataset: str, root: Path, split: str) -> Found:
    """What a training would find. Where its finder stops at a mistake: all else that pairs, each frame without its past."""
    folder, parts, void = _layout(dataset, root, split)
    pairs: dict[Path, Path] = {}
    orphans: list[Path] = []
    problems: list[Problem] = []
    unlabelled = 0
    for part in parts:
        try:
            frame_of, label_of = _by_name(folder, part, split)
        except UserError:
            continue  # a glob matches nothing: the finder says so below
        pairs |= {label: frame_of[key] for key, label in label_of.items() if key in frame_of}
        orphans += [label for key, label in label_of.items() if key not in frame_of]
        bare = [str(frame) for key, frame in frame_of.items() if key not in label_of]
        unlabelled += len(bare) if part.video else 0
        if bare and not part.video:
            text = f"{len(bare)} that nothing uses: {', '.join(bare[:3])}{', ...' if len(bare) > 3 else ''}"
            problems.append(Problem("frames without a label", split, text))
    problems += [Problem("labels without a frame", split, str(label)) for label in orphans]
    try:
        frames, whole = labelled_frames(dataset=dataset, root=root, split=split, past=PAST), True
    except UserError as error:
        frames, whole = [LabelledFrame(frame.stem, (frame,), label, "") for label, frame in pairs.items()], False
        if not any(str(label) in error.line for label in orphans):
            problems.append(Problem(MISPLACED, split, error.line))
    return Found(frames, whole, unlabelled, void, problems)


def _layout(dataset: str, root: Path, split: str) -> tuple[Path, Sequence[Part], range]:
    """The split's files as globs below a folder, and the ids that the data set keeps for what is no class."""
    if dataset == CUSTOM:
        data = read_custom(str(root))
        return data.file.parent, data.splits.get(split, ()), range(0)
    if dataset == "camvid" and (root / "label_id").is_dir():
        return root, [Part("frames/*/*.png", "label_id/*_L.png")], range(256)
    if dataset == "camvid":
        return root, [Part(f"{split}/*.png", f"{split}annot/*.png", video=False)], range(11, 12)
    kind = STILLS if (root / STILLS / split).is_dir() and not (root / FRAMES / split).is_dir() else FRAMES
    labels = f"{LABELS}/{split}/*/*_gtFine_labelIds.png"
    return root, [Part(f"{kind}/{split}/*/*_leftImg8bit.png", labels, video=kind == FRAMES)], range(34)


def _by_name(folder: Path, part: Part, split: str) -> tuple[dict[Key, Path], dict[Key, Path]]:
    """Frames, and labels, by the texts by which they pair."""
    labels = matches(folder, part.labels, "labels")
    frames = {path: key for path, key in matches(folder, part.frames, "frames").items() if path not in labels}
    last = -min(len(wildcards(part.frames)), len(wildcards(part.labels)))
    mixed = part.labels.startswith("label_id/")  # CamVid's video layout: the names tell the splits
    frame_of, label_of = (
        {key[last:]: path for path, key in files.items() if not mixed or split_of(key[-1]) == split} for files in (frames, labels)
    )
    return frame_of, label_of


def look(path: Path, is_label: bool) -> Seen:
    digest = b""
    try:
        content = content_of(path)
        digest = hashlib.blake2b(content, digest_size=16).digest()
        picture = read_ids(path) if is_label else read_image(path)
    except UserError as error:
        return Seen(digest, fault=error.line, kind=NO_IDS if is_label and look(path, False).size else UNREADABLE)
    size = f"{picture.shape[1]} x {picture.shape[0]}"
    if is_label:
        return Seen(digest, size, np.bincount(picture.ravel(), minlength=256))
    return Seen(digest, size, turned=turned(content))


def look_at_all(frames: Sequence[LabelledFrame], workers: int) -> dict[Path, Seen]:
    """Every label, every labelled frame and the frames before it, each file once."""
    jobs = {path: False for frame in frames for path in frame.frames} | {frame.label: True for frame in frames}
    seen = {}
    with ThreadPoolExecutor(workers) as pool, progress_bar(total=len(jobs), description="check", unit="file") as bar:
        for path, result in zip(jobs, pool.map(look, jobs, jobs.values())):  # decoders let other threads run
            seen[path] = result
            bar.update()
    return seen


def report_of(found: Found, seen: Mapping[Path, Seen], config: DatasetConfig) -> dict:
    """A split's part of check.json."""
    labels = [frame.label for frame in found.frames if seen[frame.label].ids is not None]
    counts = np.array([seen[label].ids for label in labels], np.int64).reshape(-1, 256)  # (labels,256)
    table = label_table(config)

    def row(name: str, ids: np.ndarray) -> dict:
        pixels = counts[:, ids].sum(axis=1)  # (labels,)
        first = str(labels[(pixels > 0).argmax()]) if pixels.any() else None
        return {"name": name, "ids": ids.tolist(), "pixels": int(pixels.sum()), "files": int((pixels > 0).sum()), "first": first}

    classes = [row(name, np.flatnonzero(table == c)) for c, name in enumerate(config.classes)]
    for entry in classes:
        entry["share"] = entry["pixels"] / max(1, sum(other["pixels"] for other in classes))
        entry["weight"] = 1 / math.log(1.02 + entry["share"])
    unknown = np.flatnonzero((table == config.ignore) & counts.any(axis=0))
    before = Counter(len(frame.frames) - 1 for frame in found.frames)
    return {
        "labelled_frames": len(found.frames),
        "videos": len(videos_of(found.frames)) if found.whole else None,
        "frames_before": {str(k): before[k] for k in range(PAST + 1)} if found.whole else None,
        "frames_without_label": found.unlabelled,
        "frame_sizes": dict(Counter(seen[frame.frames[-1]].size or "unreadable" for frame in found.frames).most_common()),
        "classes": classes,
        "unknown_ids": [row("void" if i in (*USUAL_VOID, *found.void) else "no class", np.array([i])) for i in unknown.tolist()],
    }


def problems_of(split: str, found: Found, seen: Mapping[Path, Seen], report: Mapping, config: DatasetConfig) -> Iterator[Problem]:
    yield from found.problems
    for path in dict.fromkeys(path for frame in found.frames for path in (*frame.frames, frame.label)):
        if seen[path].fault:
            yield Problem(seen[path].kind, split, seen[path].fault)
        if seen[path].turned:
            yield Problem("frames that viewers show turned", split, f"{path}: EXIF data; its label is taken to lie as the file does")
    for frame in found.frames:
        ids = seen[frame.label].ids
        reason = strangeness(ids, config) if ids is not None else ""
        if reason:
            yield Problem("labels of another kind", split, f"{frame.label}: {reason}")
    for frame in found.frames:
        *earlier, own, label = (seen[path].size for path in (*frame.frames, frame.label))
        if own and label not in (own, ""):
            text = f"{frame.label}: {label} pixels, but {frame.frames[-1]} has {own}"
            yield Problem("labels of another size than their frame", split, text)
        if own and not {*earlier} <= {own, ""}:
            yield Problem("frames of different sizes", split, f"{frame.frames[-1]}: {own} pixels, unlike a frame before it")
    if split == "train" and len({*report["frame_sizes"]} - {"unreadable"}) > 1:  # evaluation takes them one by one
        yield Problem("frames of different sizes", split, f"{_sizes(report)}; a training wants one size")
    for row in report["unknown_ids"]:
        if row["name"] != "void":
            where = f"{row['ids'][0]}: {row['pixels']} pixels; files: {row['files']}, first {row['first']}"
            yield Problem("ids of no class", split, f"{where}; ignored: give it a class, or void's id 255")


def problems_between(found: Mapping[str, Found], seen: Mapping[Path, Seen], reports: Mapping[str, Mapping]) -> Iterator[Problem]:
    """Classes that cannot be learned, and frames of val whose file's bytes are those of a frame of train."""
    judged = "train" if "train" in found else "val"  # a small val may lack a class
    for row in reports[judged]["classes"]:
        if found[judged].frames and not row["pixels"]:
            yield Problem("classes that never occur", judged, row["name"])
    train, val = (found[split].frames if split in found else () for split in SPLITS)
    known = {seen[frame.frames[-1]].digest: frame for frame in train}
    for frame in val:
        digest = seen[frame.frames[-1]].digest
        twin = known.get(digest) if digest else None
        if twin is not None:
            same = seen[frame.label].digest == seen[twin.label].digest
            text = f"{frame.frames[-1]} is {twin.frames[-1]}, with {'the same' if same else 'another'} label"
            yield Problem("frames that are in train too", "val", text)


def _sizes(report: Mapping) -> str:
    return ", ".join(f"{size} ({count})" for size, count in report["frame_sizes"].items())


def draw(found: Found, seen: Mapping[Path, Seen], config: DatasetConfig, count: int, stem: Path) -> list[str]:
    """Write pictures of `count` frames, evenly spaced, beside their labels; returns the files' names."""
    usable = [frame for frame in found.frames if "" != seen[frame.label].size == seen[frame.frames[-1]].size]
    count, names = min(count, len(usable)), []
    for number, frame in enumerate(usable[i * len(usable) // count] for i in range(count)):
        image, label = read_image(frame.frames[-1]), cv2.LUT(read_ids(frame.label), label_table(config))  # (H,W,3), (H,W)
        width = min(max(image.shape[1], NARROWEST), WIDEST)
        size = (width, max(1, round(image.shape[0] * width / image.shape[1])))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)
        painted = with_caption(overlay(image, label, config.colours), "label; what has no class stays as it is")
        panels = grid([[with_caption(image, frame.name), painted]])
        names.append(f"{stem.name}_{number}_{frame.name}.png")
        write_picture(stem.with_name(names[-1]), np.vstack([panels, legend(config.classes, config.colours, panels.shape[1])]))
    return names


def print_split(split: str, report: Mapping) -> None:
    print(f"\n{split}: {report['labelled_frames']} labelled frames; sizes: {_sizes(report)}")
    if report["videos"] is not None:
        before = ", ".join(f"{count} with {k}" for k, count in report["frames_before"].items())
        print(f"  videos: {report['videos']}; frames before the labelled ones: {before} or more")
    if report["frames_without_label"]:
        print(f"  {report['frames_without_label']} frames of videos have no label")
    width = max(8, *(len(row["name"]) for row in report["classes"]))
    print(f"  {'class':{width}} {'ids':>8} {'pixels':>14} {'files':>7} {'share %':>8} {'weight':>7}")
    for row in report["classes"] + report["unknown_ids"]:
        rest = f"{100 * row['share']:8.2f} {row['weight']:7.2f}" if "share" in row else f" first {row['first']}"
        print(f"  {row['name']:{width}} {' '.join(map(str, row['ids'])):>8} {row['pixels']:14,} {row['files']:7} {rest}")


def print_problems(problems: Sequence[Problem]) -> None:
    for kind in dict.fromkeys(problem.kind for problem in problems):
        texts = [f"  {problem.split}: {problem.text}" for problem in problems if problem.kind == kind]
        more = [f"  ... and {len(texts) - SHOWN} more, in check.json"] if len(texts) > SHOWN else []
        print("", f"{kind} ({len(texts)})", *texts[:SHOWN], *more, sep="\n")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; --help lists the options")


def parse(words: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(prog="python -m dataloaders.dataset_check", description=__doc__)
    parser.add_argument("--dataset", choices=NAMES, required=True)
    parser.add_argument("--data-path", default="", help="its folder (default: data/NAME); of custom data the YAML file")
    parser.add_argument("--split", nargs="+", choices=SPLITS, help="default: all that there are")
    parser.add_argument("--output", type=Path, default=Path("check"), help="folder of check.json and the pictures")
    parser.add_argument("--pictures", type=int, default=6, help="frames of each split drawn with their labels")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="files read at a time; default: one a core")
    arguments = parser.parse_args(words)
    if arguments.workers < 1 or arguments.pictures < 0:
        raise UserError("--workers wants a number from 1 on, --pictures one from 0 on")
    return arguments


def check(arguments: argparse.Namespace) -> int:
    """Look, write and print; returns the number of problems."""
    name, output = arguments.dataset, arguments.output
    config = dataset_config(name, arguments.data_path)
    root = Path(arguments.data_path or config.default_path)
    if name != "synthetic":
        prepare_data(dataset=name, root=root)
    elif not root.is_dir():  # preparing would make it
        raise UserError(f"{root}: no such folder; python -m streets --root {root} makes the streets")
    splits = arguments.split or (read_custom(str(root)).splits if name == CUSTOM else SPLITS)
    found = {split: find(name, root, split) for split in SPLITS if split in splits}
    problems = [problem for split in found.values() for problem in split.problems]
    frames = [frame for split in found.values() for frame in split.frames]
    if not frames and all(problem.kind == MISPLACED for problem in problems):
        raise UserError(problems[0].text)
    output.mkdir(parents=True, exist_ok=True)
    seen = look_at_all(frames, arguments.workers)
    reports = {split: report_of(found[split], seen, config) for split in found}
    problems = [problem for split in found for problem in problems_of(split, found[split], seen, reports[split], config)]
    problems += problems_between(found, seen, reports)
    for split, report in reports.items():
        report["pictures"] = draw(found[split], seen, config, arguments.pictures, output / split)
        print_split(split, report)
    print_problems(problems)
    content = {"dataset": config.name, "splits": reports, "problems": [problem._asdict() for problem in problems]}
    write_json(output / "check.json", content)
    print(f"\n{output / 'check.json'} and {sum(len(report['pictures']) for report in reports.values())} pictures written")
    return len(problems)


def main(words: Sequence[str]) -> int:
    try:
        count = check(parse(words))
    except (UserError, OSError) as error:
        print("error:", error.line if isinstance(error, UserError) else f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(f"{count} problem{'' if count == 1 else 's'}")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
