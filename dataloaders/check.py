"""Command line: goes through every labelled frame of a data set and lists what a training would stop at, or wrongly learn."""
import argparse
import hashlib
import math
import os
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Iterator, Mapping, Optional, Sequence

import cv2
import numpy as np

from config.custom import SPLITS, Part, read_custom, wildcards
from config.dataset import DatasetConfig
from config.datasets import CUSTOM, NAMES, dataset_config
from config.errors import UserError
from dataloaders.build import labelled_frames, prepare_data
from dataloaders.camvid import split_of
from dataloaders.cityscapes import FRAMES, LABELS, STILLS
from dataloaders.clips import LabelledFrame
from dataloaders.custom import _matches
from dataloaders.images import label_table, read_ids, read_image
from dataloaders.videos import videos_of
from utils.logging import progress_bar, write_json
from utils.visualize import grid, overlay, with_caption, write_picture

PAST = 4  # frames before a labelled one that are looked at: as many as the recipe uses
USUAL_VOID = (250, 255)
SHOWN = 20  # problems of a kind on the console; check.json has all
NARROWEST, WIDEST = 480, 1024  # half an overlay picture, pixels
UNFIT = "files that do not fit together"


@dataclass(frozen=True)
class Problem:
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
    """One file. fault: why it cannot be used, else empty. size: width, height. ids: (256,) pixels of each id of a label."""

    digest: bytes = b""
    size: tuple[int, ...] = ()
    ids: Optional[np.ndarray] = None
    fault: str = ""
    picture: bool = True  # readable, be it as a picture only


def find(dataset: str, root: Path, split: str) -> Found:
    """What a training would find. Where its finder stops at a mistake: all else that pairs, each frame without its past."""
    folder, parts, void = _layout(dataset, root, split)
    pairs, orphans, problems, unlabelled = {}, [], [], 0
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
            problems.append(Problem(UNFIT, split, error.line))
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


def _by_name(folder: Path, part: Part, split: str) -> tuple[dict, dict]:
    """Frames, and labels, by the texts by which they pair."""
    labels = _matches(folder, part.labels, "labels")
    frames = {path: key for path, key in _matches(folder, part.frames, "frames").items() if path not in labels}
    last = -min(len(wildcards(part.frames)), len(wildcards(part.labels)))
    everything = not part.labels.startswith("label_id/")  # one folder for all splits
    return tuple(
        {key[last:]: path for path, key in files.items() if everything or split_of(key[-1]) == split} for files in (frames, labels)
    )


def look(path: Path, is_label: bool) -> Seen:
    digest = b""
    try:
        digest = hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
        picture = read_ids(path) if is_label else read_image(path)
        return Seen(digest, picture.shape[1::-1], np.bincount(picture.ravel(), minlength=256) if is_label else None)
    except OSError as error:
        return Seen(digest, fault=f"{path}: cannot be read ({error.strerror})", picture=False)
    except UserError as error:
        return Seen(digest, fault=error.line, picture=is_label and not look(path, False).fault)


def look_at_all(frames: Sequence[LabelledFrame], workers: int) -> dict[Path, Seen]:
    """Every label, every labelled frame and the frames before it, each file once."""
    jobs = {path: False for frame in frames for path in frame.frames} | {frame.label: True for frame in frames}
    with ThreadPoolExecutor(workers) as pool, progress_bar(total=len(jobs), description="check", unit="file") as bar:
        seen = {}
        for path, result in zip(jobs, pool.map(look, jobs, jobs.values())):  # decoders let other threads run
            seen[path] = result
            bar.update()
    return seen


def report_of(found: Found, seen: Mapping[Path, Seen], config: DatasetConfig) -> dict:
    """A split's part of check.json."""
    labels = [frame.label for frame in found.frames if seen[frame.label].ids is not None]
    counts = np.array([seen[label].ids for label in labels], np.int64).reshape(-1, 256)  # (labels,256)
    table = label_table(config)
    members = (table[:, None] == np.arange(config.num_classes)).astype(np.int64)  # (256,C)
    by_class, pixels, files = counts @ members, counts.sum(axis=0), (counts > 0).sum(axis=0)
    share = by_class.sum(axis=0) / max(1, by_class.sum())
    sizes = Counter(seen[frame.frames[-1]].size for frame in found.frames if seen[frame.frames[-1]].size)
    before = Counter(len(frame.frames) - 1 for frame in found.frames)
    return {
        "labelled_frames": len(found.frames),
        "videos": len(videos_of(found.frames)) if found.whole else None,
        "frames_before": {str(k): before[k] for k in range(PAST + 1)} if found.whole else None,
        "frames_without_label": found.unlabelled,
        "frame_sizes": [{"width": size[0], "height": size[1], "frames": count} for size, count in sizes.most_common()],
        "classes": [
            {"name": name, "ids": np.flatnonzero(members[:, c]).tolist(), "pixels": int(by_class[:, c].sum()),
             "share": float(share[c]), "frames": int((by_class[:, c] > 0).sum()), "weight": 1 / math.log(1.02 + share[c])}
            for c, name in enumerate(config.classes)
        ],
        "unknown_ids": [
            {"id": int(i), "pixels": int(pixels[i]), "share": float(pixels[i] / pixels.sum()), "files": int(files[i]),
             "first": str(labels[(counts[:, i] > 0).argmax()]), "void": int(i) in (*USUAL_VOID, *found.void)}
            for i in np.flatnonzero((table == config.ignore) & (pixels > 0))
        ],
    }


def problems_of(split: str, found: Found, seen: Mapping[Path, Seen], report: Mapping) -> Iterator[Problem]:
    yield from found.problems
    for path in dict.fromkeys(path for frame in found.frames for path in (*frame.frames, frame.label)):
        if seen[path].fault:
            yield Problem("labels that hold no ids" if seen[path].picture else "unreadable files", split, seen[path].fault)
    for frame in found.frames:
        own, label = seen[frame.frames[-1]].size, seen[frame.label].size
        if own and label and own != label:
            text = f"{frame.label}: {_size(label)} pixels, but {frame.frames[-1]} has {_size(own)}"
            yield Problem("labels of another size than their frame", split, text)
        if any(seen[path].size not in ((), own) for path in frame.frames) and own:
            yield Problem("frames of different sizes", split, f"{frame.frames[-1]}: {_size(own)} pixels, unlike a frame before it")
    if split == "train" and len(report["frame_sizes"]) > 1:  # evaluation takes them one by one
        yield Problem("frames of different sizes", split, f"{_sizes(report)}; a training wants one size")
    for row in report["unknown_ids"]:
        if not row["void"]:
            text = f"{row['id']}: {row['pixels']} pixels in {row['files']} files, first {row['first']}; they are ignored"
            yield Problem("ids of no class", split, text)
    for row in report["classes"]:
        if not row["pixels"] and report["labelled_frames"]:
            yield Problem("classes that never occur", split, row["name"])


def duplicates(train: Sequence[LabelledFrame], val: Sequence[LabelledFrame], seen: Mapping[Path, Seen]) -> Iterator[Problem]:
    """Frames of val whose file's bytes are those of a frame of train."""
    known = {seen[frame.frames[-1]].digest: frame for frame in train}
    for frame in val:
        digest = seen[frame.frames[-1]].digest
        if digest and digest in known:
            same = seen[frame.label].digest == seen[known[digest].label].digest
            text = f"{frame.frames[-1]} is {known[digest].frames[-1]}, with {'the same' if same else 'another'} label"
            yield Problem("frames that are in train too", "val", text)


def _size(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]}"


def _sizes(report: Mapping) -> str:
    return ", ".join(f"{row['frames']} of {row['width']} x {row['height']}" for row in report["frame_sizes"]) or "none"


def draw(found: Found, seen: Mapping[Path, Seen], config: DatasetConfig, count: int, stem: Path) -> list[str]:
    """Write pictures of `count` frames, evenly spaced, beside their labels; returns the files' names."""
    usable = [frame for frame in found.frames if () != seen[frame.label].size == seen[frame.frames[-1]].size]
    count, names = min(count, len(usable)), []
    for number, frame in enumerate(usable[i * len(usable) // count] for i in range(count)):
        image, label = read_image(frame.frames[-1]), cv2.LUT(read_ids(frame.label), label_table(config))  # (H,W,3), (H,W)
        width = min(max(image.shape[1], NARROWEST), WIDEST)
        size = (width, max(1, round(image.shape[0] * width / image.shape[1])))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if width < image.shape[1] else cv2.INTER_NEAREST)
        label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)
        painted = with_caption(overlay(image, label, config.colours), "label; what has no class stays as it is")
        panels = grid([[with_caption(image, frame.name), painted]])
        names.append(f"{stem.name}_{number}_{frame.name}.png")
        write_picture(stem.with_name(names[-1]), np.vstack([panels, legend(config, panels.shape[1])]))
    return names


def legend(config: DatasetConfig, width: int) -> np.ndarray:
    """Colours and names of the classes as an RGB strip, (H,width,3)."""
    cell = 34 + max(cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)[0][0] for name in config.classes)
    columns = max(1, width // cell)
    strip = np.full((22 * math.ceil(config.num_classes / columns) + 6, width, 3), 24, np.uint8)
    for c, (name, colour) in enumerate(zip(config.classes, config.colours)):
        x, y = c % columns * cell + 6, c // columns * 22 + 6
        cv2.rectangle(strip, (x, y), (x + 16, y + 14), colour, cv2.FILLED)
        cv2.putText(strip, name, (x + 22, y + 12), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (235, 235, 235), 1, cv2.LINE_AA)
    return strip


def print_split(split: str, found: Found, report: Mapping) -> None:
    videos = f" in {report['videos']} videos" if found.whole else ""
    print(f"\n{split}: {report['labelled_frames']} labelled frames{videos}, sizes: {_sizes(report)}")
    if found.whole:
        print(f"  by frames before them ({PAST}: or more): " + ", ".join(f"{k}: {n}" for k, n in report["frames_before"].items()))
    if found.unlabelled:
        print(f"  {found.unlabelled} frames of the videos have no label")
    width = max(len(row["name"]) for row in report["classes"])
    print(f"  {'class':{width}}  {'ids':>8} {'pixels':>14} {'share %':>8} {'frames':>7} {'weight':>7}")
    for row in report["classes"]:
        ids, share = " ".join(map(str, row["ids"])), 100 * row["share"]
        print(f"  {row['name']:{width}}  {ids:>8} {row['pixels']:14,} {share:8.2f} {row['frames']:7} {row['weight']:7.2f}")
    for row in report["unknown_ids"]:
        name, share = "void" if row["void"] else "no class", 100 * row["share"]
        print(f"  {name:{width}}  {row['id']:>8} {row['pixels']:14,} {share:8.2f} {row['files']:7}  first {row['first']}")


def print_problems(problems: Sequence[Problem]) -> None:
    for kind in dict.fromkeys(problem.kind for problem in problems):
        texts = [f"  {problem.split}: {problem.text}" for problem in problems if problem.kind == kind]
        more = [f"  ... and {len(texts) - SHOWN} more, in check.json"] if len(texts) > SHOWN else []
        print("", f"{kind} ({len(texts)})", *texts[:SHOWN], *more, sep="\n")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UserError(f"{message}; --help lists the options")


def parse(words: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(prog="python -m dataloaders.check", description=__doc__)
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
    """Returns the number of problems."""
    name, output = arguments.dataset, arguments.output
    config = dataset_config(name, arguments.data_path)
    root = Path(arguments.data_path or config.default_path)
    if name != "synthetic" or not root.is_dir():  # preparing would make the streets
        prepare_data(dataset=name if name != "synthetic" else "cityscapes_2k", root=root)
    splits = arguments.split or (read_custom(str(root)).splits if name == CUSTOM else SPLITS)
    output.mkdir(parents=True, exist_ok=True)
    found = {split: find(name, root, split) for split in dict.fromkeys(splits)}
    if not any(split.frames for split in found.values()) and all(problem.kind == UNFIT for split in found.values() for problem in split.problems):
        raise UserError(next(problem.text for split in found.values() for problem in split.problems))
    seen = look_at_all([frame for split in found.values() for frame in split.frames], arguments.workers)
    reports = {split: report_of(found[split], seen, config) for split in found}
    problems = [problem for split in found for problem in problems_of(split, found[split], seen, reports[split])]
    if len(found) == 2:
        problems += duplicates(found["train"].frames, found["val"].frames, seen)
    for split in found:
        print_split(split, found[split], reports[split])
        reports[split]["pictures"] = draw(found[split], seen, config, arguments.pictures, output / split)
    print_problems(problems)
    content = {"dataset": config.name, "data_path": str(root), "splits": reports, "problems": [asdict(problem) for problem in problems]}
    write_json(output / "check.json", content)
    print(f"\n{output / 'check.json'} and {sum(len(report['pictures']) for report in reports.values())} pictures written")
    return len(problems)


def main(words: Sequence[str]) -> int:
    try:
        count = check(parse(words))
    except UserError as error:
        print(f"error: {error.line}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    print(f"{count} problem{'' if count == 1 else 's'}")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
