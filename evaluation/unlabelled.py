"""Videos without labels: which of their frames are for training and for validation."""
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from config.errors import UserError
from config.options import Options, flag
from dataloaders.clips import LabelledFrame
from dataloaders.eval_videos import Video, VideoFrame
from inference.containers import frame_title
from inference.video_input import DEMO, URL, open_frames, place_of, videos_in
from inference.video_writer import silence_codecs

VAL = 0.2  # share of each video, its end, that is for validation


@dataclass(frozen=True)
class VideoPart:
    """`count` consecutive frames of a video, the first of them its frame number `first`.

    source: the video, as `open_frames` takes it; option: that named it. name: of the video. titles: of all its frames,
    and files, where they are pictures.
    """

    source: str
    option: str
    name: str
    first: int
    count: int
    titles: Sequence[str] = ()
    files: tuple[Path, ...] = ()

    def title(self, number: int) -> str:
        """VIDEO/FRAME of frame `number` of the part."""
        number += self.first
        return f"{self.name}/{self.titles[number] if self.titles else frame_title(number)}"

    def video(self) -> Video:
        """The frames as evaluation takes them."""
        paths = [(title, Path(self.source) / Path(title).name) for title in map(self.title, range(self.count))]
        return tuple(
            VideoFrame(path, LabelledFrame(title, (path,), path, f"{title}_pred.png")) for title, path in paths
        )

    def images(self) -> Iterator[Tensor]:
        """The frames (H,W,3) uint8 RGB, read as they are needed. Raises UserError."""
        silence_codecs()
        found = open_frames(self.source, option=flag(self.option))
        for image in islice(found, self.first, self.first + self.count):
            yield torch.from_numpy(image)


def names_of(sources: Sequence[str]) -> list[str]:
    """What the videos are called: as the last file or folder of their path, and where that is not enough to tell them
    apart, with their patterns, and with folders before it. Raises UserError where two are one."""
    places = [tuple(x for x in place_of(source).parts if x != os.sep) for source in sources]
    alike = Counter(places)
    paths = [
        Path(source if URL.match(source) else os.path.abspath(source)).parts[1:] if alike[place] > 1 else place
        for source, place in zip(sources, places)
    ]
    for i, path in enumerate(paths):
        if path in paths[:i]:
            raise UserError(f"{sources[paths.index(path)]} and {sources[i]} are one video; name it once")
    depth = 1
    while len({path[-depth:] for path in paths}) < len(paths):
        depth += 1
    return ["/".join(path[-depth:]) for path in paths]


def whole_video(source: str, option: str = "data_path") -> VideoPart:
    """All frames of a stored video; their number is counted by reading it once. Raises UserError."""
    frames = None if source.isdigit() or source == DEMO else open_frames(source, option=flag(option))
    if frames is None or frames.live:
        raise UserError(
            f"{flag(option)} {source}: not a stored video; name a file or folder (./{source} for one so named)"
        )
    count, files = sum(1 for _ in frames), frames.files if frames.names else ()
    return VideoPart(source, option, names_of([source])[0], 0, count, frames.names, files)


def video_parts(options: Options, split: str) -> list[VideoPart]:
    """What a split holds of the options' videos: "all" of them, or "val", the last fifth of each, or "train", what is
    before, with a gap as long as the longest clip; with --val-path, "val" is all of that. Raises UserError."""
    option = "val_path" if split == "val" and options.val_path else "data_path"
    undivided, gap, parts = bool(options.val_path) or split == "all", max(options.multi_step), []
    sources = videos_in(getattr(options, option))
    for source, name in zip(sources, names_of(sources)):
        video = whole_video(source, option)
        begin = math.ceil((1 - VAL) * video.count)
        first, last = {"train": (0, begin - gap), "val": (begin, video.count), "all": (0, video.count)}[split]
        if undivided:
            first, last = 0, video.count
        if first < last:
            parts.append(replace(video, name=name, first=first, count=last - first))
    if not parts:
        raise UserError(
            f"{flag(option)} {getattr(options, option)}: no video has enough frames for the {split} split; name longer "
            "videos, or others to evaluate on with --val-path"
        )
    return parts


class StreamedFrames:
    """The frames of parts of videos, one after the other, with the keys of `VideoDataset`'s items; read as they are
    needed."""

    def __init__(self, parts: Sequence[VideoPart]):
        self.parts = parts

    def __len__(self) -> int:
        return sum(part.count for part in self.parts)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        nothing = {"label": torch.empty(0, dtype=torch.uint8), "ahead": torch.empty(0)}
        for part in self.parts:
            for image in part.images():
                yield {"image": image, "visible": torch.empty(0, dtype=torch.bool), **nothing}
