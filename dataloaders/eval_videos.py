"""Videos to evaluate on: runs of consecutive frames, some of them labelled."""
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from config.schema import DatasetConfig
from dataloaders.cache import PictureCache
from dataloaders.clips import LabelledFrame, SizedDataset, check_size
from dataloaders.flow_pairs import read_flow
from dataloaders.reader import Reader


@dataclass(frozen=True)
class VideoFrame:
    """One frame of a video; `labelled` if the data set has its label."""

    path: Path
    labelled: LabelledFrame | None = None


Video = tuple[VideoFrame, ...]
PARTS = 4  # of a path: name and folders that tell apart frames without a label


def with_own_label(frame: VideoFrame) -> VideoFrame:
    """The frame as a labelled one: it is compared with a label that is made of it."""
    path = frame.path
    name = str(Path(*path.absolute().parts[1:][-PARTS:]).with_suffix(""))
    own = LabelledFrame(name, (path,), path, f"{name}_pred.png")
    return replace(frame, labelled=frame.labelled or own)


def videos_of(frames: Sequence[LabelledFrame]) -> list[Video]:
    """Join labelled frames, in order, and their pasts to videos.

    If a labelled frame's past contains the previous labelled frame, both are in one video, so that no frame is in two;
    otherwise a new video begins with its past.
    """
    videos: list[list[VideoFrame]] = []
    for frame in frames:
        new = frame.frames
        if videos and videos[-1][-1].path in new:
            new = new[new.index(videos[-1][-1].path) + 1 :]
        else:
            videos.append([])
        videos[-1].extend(VideoFrame(path) for path in new[:-1])
        videos[-1].append(VideoFrame(frame.frames[-1], frame))
    return [tuple(video) for video in videos]


def whole_videos_of(videos: Sequence[Video], *, rank: int, ranks: int) -> list[Video]:
    """The videos of process `rank` of `ranks`, about as many frames as the others have."""
    shares: list[list[Video]] = [[] for _ in range(ranks)]
    for video in sorted(videos, key=len, reverse=True):
        min(shares, key=lambda found: sum(map(len, found))).append(video)
    return shares[rank]


def share(frames: Sequence[LabelledFrame], *, rank: int, ranks: int, whole_videos: bool) -> list[Video]:
    """Return the videos that process `rank` of `ranks` evaluates; together they hold every labelled frame exactly once.

    `whole_videos` keeps each video in one process, as temporal metrics require; without, a long video is cut, and both
    processes read the frames before the cut.
    """
    if not whole_videos:
        cuts = [round(len(frames) * part / ranks) for part in (rank, rank + 1)]
        return videos_of(frames[cuts[0] : cuts[1]])
    return whole_videos_of(videos_of(frames), rank=rank, ranks=ranks)


class VideoDataset(SizedDataset):
    """The frames of videos, one after the other, as bytes.

    Items: `image` (H,W,3) uint8 RGB; `label` (H,W) uint8 class indices, empty where there is none; `ahead`
    (H,W,2) float32, the true flow to the next frame in pixels, x first, and `visible` (H,W) bool, whether the next
    frame shows the point: both empty without `with_flow` and where the data set has none. Reading raises UserError for
    unreadable files and for labels of another aspect ratio than their frame.
    """

    def __init__(
        self, videos: Sequence[Video], dataset: DatasetConfig, cache: PictureCache | None = None, *,
        with_flow: bool = False, with_labels: bool = True,
    ):
        self.with_labels = with_labels
        self.frames = [frame for video in videos for frame in video]
        labels = [frame.labelled.label for frame in self.frames if frame.labelled is not None]
        self.reader, self.with_flow = Reader(dataset, cache, labels=labels), with_flow

    def __getitem__(self, index: int) -> dict:
        frame = self.frames[index]
        item = {"image": torch.tensor(self.reader.frame(frame.path)), "label": torch.empty(0, dtype=torch.uint8)}
        item |= {"ahead": torch.empty(0), "visible": torch.empty(0, dtype=torch.bool)}
        if (labelled := frame.labelled) is not None:
            whole = item["image"].shape[:2]
            if self.with_labels:
                item["label"] = self._label(frame.path, labelled.label, whole)
            if self.with_flow and labelled.ahead is not None:
                flow, visible = read_flow(labelled.ahead)
                check_size(labelled.ahead, visible.shape, frame.path, whole)
                item |= {"ahead": torch.from_numpy(flow), "visible": torch.from_numpy(visible)}
        return item

    def _label(self, frame: Path, path: Path, whole: Sequence[int]) -> Tensor:
        """The label (H',W') of a frame of size `whole` (H,W)."""
        label = self.reader.label(path)
        # Unlike in training, a label may have another size than its frame, but not another aspect ratio.
        if abs(label.shape[0] * whole[1] - label.shape[1] * whole[0]) > max(whole):
            check_size(path, label.shape, frame, whole)
        return torch.from_numpy(label)
