"""Videos without labels, to compare propagation with the segmenter itself on."""
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from config.errors import UserError
from config.folders import natural
from dataloaders.clips import LabelledFrame
from dataloaders.eval_videos import Video, VideoFrame
from inference.video_input import DEMO, PICTURE_ENDINGS, WILDCARD, open_frames
from inference.video_writer import silence_codecs

OPTION = "--data-path"  # that names the videos


def sources_in(path: str) -> list[str]:
    """The videos that --data-path names: a file, a glob of pictures, a folder of pictures, or a folder of such folders
    and video files. Raises UserError."""
    folder = Path(path)
    if path.isdigit() or path == DEMO:
        raise UserError(f"--data-path {path}: not a stored video; name a file or folder (./{path} for one so named)")
    if not folder.is_dir():
        return [path]
    inside = sorted((x for x in folder.iterdir() if x.name[0] != "."), key=natural)
    if any(x.is_file() and x.suffix.lower() in PICTURE_ENDINGS for x in inside):
        return [path]
    if not inside:
        raise UserError(f"--data-path {path}: an empty folder; name a video, or a folder of videos or frames")
    return [str(x) for x in inside]


def unlabelled_video(source: str) -> Video:
    """The frames of a video; their number is counted by reading it once. Raises UserError."""
    frames = open_frames(source, option=OPTION)
    count, name = sum(1 for _ in frames), Path(os.path.abspath(source)).name
    if WILDCARD.search(name):
        name = Path(os.path.abspath(frames.files[0])).parent.name
    found = []
    for number in range(count):
        title = f"{name}/{frames.title(number)}"
        path = Path(source) / frames.title(number)
        found.append(VideoFrame(path, LabelledFrame(title, (path,), path, f"{title}_pred.png")))
    return tuple(found)


class StreamedFrames:
    """The frames of videos, one after the other, with the keys of `VideoDataset`'s items; read as they are needed."""

    def __init__(self, sources: Sequence[str], frames: int):
        self.sources, self.frames = sources, frames
        silence_codecs()

    def __len__(self) -> int:
        return self.frames

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        nothing = {"label": torch.empty(0, dtype=torch.uint8), "ahead": torch.empty(0)}
        for source in self.sources:
            for image in open_frames(source, option=OPTION):
                yield {"image": torch.from_numpy(image), "visible": torch.empty(0, dtype=torch.bool), **nothing}
