"""--check 1: read the labelled frames of a data set and list what would stop a training, or mislead it."""
import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from config.custom import read_custom
from config.datasets import CUSTOM, dataset_config
from config.errors import UserError
from config.options import Options
from config.schema import DatasetConfig
from dataloaders.clips import LabelledFrame
from dataloaders.eval_videos import videos_of
from dataloaders.images import content_of, exif_orientation, label_table
from dataloaders.label_check import unknown_colours, wrong_kind
from dataloaders.loaders import labelled_frames, prepare_data
from dataloaders.reader import Reader
from dataloaders.split_scan import MISPLACED, Problem, SplitScan
from utils.files import write_json
from utils.logging import watched
from utils.text_table import Table
from utils.visualize import grid, legend, overlay, with_caption, write_picture

SIZES = "frames of different sizes"
PAST = 4  # frames read before a labelled one: as many as the recipe uses
USUAL_VOID = (250, 255)
SHOWN = 20  # problems of a kind on the console; check.json has all
NARROWEST, WIDEST = 480, 1024  # half an overlay picture, pixels
COLUMNS = ("class", "ids", "pixels", "files", "share %", "weight")


@dataclass(frozen=True)
class ScannedFile:
    """What reading one file found."""

    digest: bytes = b""  # of its bytes
    size: str = ""  # "width x height", empty if unreadable
    ids: np.ndarray | None = None  # (256,) pixels of each id of a label
    problem: Problem | None = None  # why it cannot be used, if so
    turned: bool = False  # viewers rotate or mirror the frame, this program does not


Files = Mapping[Path, ScannedFile]


def check_dataset(options: Options) -> int:
    """Read the data set, write check.json and pictures to --output, and print all problems. Returns their number.

    Raises UserError where there is no data set.
    """
    config, output = dataset_config(options.dataset, options.data_path), Path(*options.output or ("check",))
    scans = scan_splits(options)
    output.mkdir(parents=True, exist_ok=True)
    frames = [frame for scan in scans.values() for frame in scan.frames]
    reader = Reader(config, labels=[frame.label for frame in frames])
    files = scan_files(frames, reader, max(1, options.num_worker))
    reports = {split: report_of(scan, files, config, _void_ids(options)) for split, scan in scans.items()}
    found = {split: dict.fromkeys(problems_of(split, scans, files, reports[split], reader)) for split in scans}
    problems = [{"kind": kind, "split": split, "text": text} for split in found for kind, text in found[split]]
    for split, report in reports.items():
        report["pictures"] = draw_labels(scans[split], files, reader, options.pictures, output / split)
        print_split(split, report)
    print_problems(problems)
    write_json(output / "check.json", {"dataset": config.name, "splits": reports, "problems": problems})
    pictures = sum(len(report["pictures"]) for report in reports.values())
    print(f"\n{output / 'check.json'} and {pictures} pictures written")
    print(f"{len(problems)} problem{'' if len(problems) == 1 else 's'}")
    return len(problems)


def scan_splits(options: Options) -> dict[str, SplitScan]:
    """Find the labelled frames of every split. Raises UserError where all are missing or misplaced."""
    dataset, root, scans = options.dataset, Path(options.data_path), {}
    if dataset != "synthetic":
        prepare_data(dataset=dataset, root=root)
    elif not root.is_dir():  # preparing would generate it
        raise UserError(f"{root}: no such folder; generate the streets with: python -m streets --root {root}")
    usual = [*read_custom(str(root)).splits] if dataset == CUSTOM else ["train", "val"]
    for split in dict.fromkeys(options.split or usual):
        scans[split] = scan = SplitScan(collect=True)
        with scan.reporting():
            scan.frames = labelled_frames(dataset=dataset, root=root, split=split, past=PAST, scan=scan)
    problems = [problem for scan in scans.values() for problem in scan.problems]
    if not any(scan.frames for scan in scans.values()) and {problem.kind for problem in problems} <= {MISPLACED}:
        raise UserError(problems[0].text)
    return scans


def _void_ids(options: Options) -> range:
    """Return the ids that the labels of a data set use for pixels without a class."""
    if options.dataset == "camvid":
        return range(256) if (Path(options.data_path) / "label_id").is_dir() else range(11, 12)
    return range(0) if options.dataset == CUSTOM else range(34)


def scan_file(path: Path, is_label: bool, reader: Reader) -> ScannedFile:
    """Read one frame or label. Raises nothing: the result holds what is wrong."""
    digest = b""
    try:
        content = content_of(path)
        digest = hashlib.blake2b(content, digest_size=16).digest()
        picture = reader.ids(path) if is_label else reader.frame(path)  # (H,W) or (H,W,3)
    except UserError as error:
        kind = "labels that hold no ids" if is_label and scan_file(path, False, reader).size else "unreadable files"
        return ScannedFile(digest, problem=Problem(kind, error.line))
    size = f"{picture.shape[1]} x {picture.shape[0]}"
    if is_label:
        return ScannedFile(digest, size, np.bincount(picture.ravel(), minlength=256))
    return ScannedFile(digest, size, turned=exif_orientation(content) != 1)


def scan_files(frames: Sequence[LabelledFrame], reader: Reader, workers: int) -> Files:
    """Read every label, every labelled frame and the frames before it, each file once."""
    jobs = {path: False for frame in frames for path in frame.frames} | {frame.label: True for frame in frames}
    with ThreadPoolExecutor(workers) as pool:  # decoders let other threads run
        found = pool.map(partial(scan_file, reader=reader), jobs, jobs.values())
        return dict(zip(watched(jobs, description="check", unit="file"), found))


def report_of(scan: SplitScan, files: Files, config: DatasetConfig, void: range) -> dict:
    """Return a split's part of check.json: counts of frames, sizes, and pixels of every class and unknown id."""
    labels = [frame.label for frame in scan.frames if files[frame.label].ids is not None]
    counts = np.array([files[label].ids for label in labels], np.int64).reshape(-1, 256)  # (labels,256)
    table = label_table(config)

    def row(name: str, ids: np.ndarray) -> dict:
        pixels = counts[:, ids].sum(axis=1)  # (labels,)
        first = str(labels[(pixels > 0).argmax()]) if pixels.any() else None
        occurs = {"pixels": int(pixels.sum()), "files": int((pixels > 0).sum()), "first": first}
        return {"name": name, "ids": ids.tolist()} | occurs

    classes = [row(name, np.flatnonzero(table == c)) for c, name in enumerate(config.classes)]
    total = max(1, sum(entry["pixels"] for entry in classes))
    for entry in classes:
        entry["share"] = entry["pixels"] / total
        entry["weight"] = 1 / math.log(1.02 + entry["share"])
    unknown = np.flatnonzero((table == config.ignore) & counts.any(axis=0)).tolist()
    before = Counter(len(frame.frames) - 1 for frame in scan.frames)
    return {
        "labelled_frames": len(scan.frames), "videos": len(videos_of(scan.frames)),
        "frames_before": {str(k): before[k] for k in range(PAST + 1)},
        "frames_without_label": scan.unlabelled,
        "frame_sizes": dict(Counter(files[f.frames[-1]].size or "unreadable" for f in scan.frames).most_common()),
        "classes": classes,
        "unknown_ids": [row("void" if i in (*USUAL_VOID, *void) else "no class", np.array([i])) for i in unknown],
    }


def problems_of(
    split: str, scans: Mapping[str, SplitScan], files: Files, report: Mapping, reader: Reader
) -> Iterator[Problem]:
    """Yield the problems of a split: of its folders, single files, labels next to their frames, ids; and its leaks."""
    frames, config = scans[split].frames, reader.dataset
    yield from scans[split].problems
    for path in (path for frame in frames for path in (*frame.frames, frame.label)):
        if (problem := files[path].problem) is not None:
            yield problem
        if files[path].turned:
            yield Problem("frames that viewers rotate", f"{path}: rotated by EXIF data; its label is read as stored")
    for frame in frames:
        if (ids := files[frame.label].ids) is not None and (reason := wrong_kind(ids, config)):
            yield Problem("labels of another kind", f"{frame.label}: {reason}")
        if reader.coloured and ids is not None and ids[config.unknown_id]:
            colours = unknown_colours([frame], config)
            yield Problem("colours without a class", f"{frame.label}: {', '.join(colours)}; ignored")
    for frame in frames:
        *earlier, own, label = (files[path].size for path in (*frame.frames, frame.label))
        if own and label not in (own, ""):
            text = f"{frame.label}: {label} pixels, but {frame.frames[-1]} has {own}"
            yield Problem("labels of another size than their frame", text)
        if own and not {*earlier} <= {own, ""}:
            yield Problem(SIZES, f"{frame.frames[-1]}: {own} pixels, but a frame before it has another size")
    for row in (row for row in report["unknown_ids"] if row["name"] != "void"):
        where = f"{row['ids'][0]}: {row['pixels']} pixels; files: {row['files']}, first {row['first']}"
        yield Problem("ids without a class", f"{where}; ignored: add the id to a class, or use 255 for void")
    for row in report["classes"]:
        if frames and not row["pixels"] and (split == "train" or "train" not in scans):  # a small val may lack a class
            yield Problem("classes that never occur", row["name"])
    known = {files[frame.frames[-1]].digest: frame for frame in scans["train"].frames} if "train" in scans else {}
    for frame in frames if split == "val" else ():
        digest = files[frame.frames[-1]].digest
        if digest and (twin := known.get(digest)):
            label = "the same" if files[frame.label].digest == files[twin.label].digest else "another"
            text = f"{frame.frames[-1]} is {twin.frames[-1]}, with {label} label"
            yield Problem("frames that are also in train", text)


def _sizes(report: Mapping) -> str:
    return ", ".join(f"{size} ({count})" for size, count in report["frame_sizes"].items())


def draw_labels(scan: SplitScan, files: Files, reader: Reader, count: int, stem: Path) -> list[str]:
    """Draw `count` frames, evenly spaced, next to their labels, as `stem`_*.png. Returns the names of the files."""
    usable = [frame for frame in scan.frames if "" != files[frame.label].size == files[frame.frames[-1]].size]
    count, names = min(count, len(usable)), []
    for number, frame in enumerate(usable[i * len(usable) // count] for i in range(count)):
        image, label, config = reader.frame(frame.frames[-1]), reader.label(frame.label), reader.dataset
        width = min(max(image.shape[1], NARROWEST), WIDEST)
        size = (width, max(1, round(image.shape[0] * width / image.shape[1])))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)  # (h,width,3)
        label = cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)  # (h,width)
        painted = with_caption(overlay(image, label, config.colours), "label; pixels without a class are not painted")
        panels = grid([[with_caption(image, frame.name), painted]])
        names.append(f"{stem.name}_{number}_{frame.name}.png")
        strip = legend(config.classes, config.colours, panels.shape[1])
        write_picture(stem.with_name(names[-1]), np.vstack([panels, strip]))
    return names


def print_split(split: str, report: Mapping) -> None:
    """Print a split's part of check.json."""
    before = ", ".join(f"{count} with {k}" for k, count in report["frames_before"].items())
    print(f"\n{split}: {report['labelled_frames']} labelled frames; sizes: {_sizes(report)}")
    print(f"  videos: {report['videos']}; frames before the labelled ones: {before} or more")
    if report["frames_without_label"]:
        print(f"  {report['frames_without_label']} frames of videos have no label")
    rows = []
    for row in report["classes"] + report["unknown_ids"]:
        share = (f"{100 * row['share']:.2f}", f"{row['weight']:.2f}") if "share" in row else ("", "")
        rows.append((row["name"], " ".join(map(str, row["ids"])), f"{row['pixels']:,}", str(row["files"]), *share))
    print(*Table("", COLUMNS, tuple(rows)).console()[1:], sep="\n")


def print_problems(problems: Sequence[Mapping[str, str]]) -> None:
    """Print up to SHOWN problems of each kind, under its name."""
    for kind in dict.fromkeys(problem["kind"] for problem in problems):
        texts = [f"  {problem['split']}: {problem['text']}" for problem in problems if problem["kind"] == kind]
        more = [f"  ... and {len(texts) - SHOWN} more, in check.json"] if len(texts) > SHOWN else []
        print("", f"{kind} ({len(texts)})", *texts[:SHOWN], *more, sep="\n")
