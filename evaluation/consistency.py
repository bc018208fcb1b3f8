"""How consistent label maps are over time: temporal consistency (TC) and video consistency (VC)."""
import torch
from torch import Tensor

from utils.metrics import ConfusionMatrix

Correspondence = tuple[Tensor, Tensor]


def correspondence(flow: Tensor) -> Correspondence:
    """Find each pixel of frame t in frame t+1: flat index (H,W) int64 of the nearest pixel, and (H,W) bool, whether it
    lies inside the frame. flow: (H,W,2) from t to t+1 in pixels, x first; NaN where unknown, which counts as outside.
    """
    height, width = flow.shape[:2]
    flow = torch.nan_to_num(flow, nan=torch.inf)
    column = torch.round(torch.arange(width, device=flow.device) + flow[..., 0])  # (H,W)
    row = torch.round(torch.arange(height, device=flow.device)[:, None] + flow[..., 1])  # (H,W)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    index = row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
    return index, inside


class TemporalConsistency:
    """TC (Liu et al., "Efficient Semantic Video Segmentation with Per-frame Inference", ECCV 2020): mIoU, summed over
    pairs of consecutive frames, between the label map of frame t and that of t+1 brought back to t along the flow.

    Label ids come from the nearest pixel, never interpolated. Pixels that the flow takes out of the frame are not
    counted. `everywhere` counts all others, `visible` only those that the next frame shows.
    """

    def __init__(self, classes: int):
        self.classes = classes
        self.everywhere, self.visible = ConfusionMatrix(classes), ConfusionMatrix(classes)

    def add(self, current: Tensor, following: Tensor, where: Correspondence, visible: Tensor | None) -> None:
        """Add class indices (H,W) of t and t+1. where: `correspondence` from t to t+1; visible: (H,W) bool."""
        index, inside = where
        back = following.reshape(-1)[index]  # (H,W), the ids of t+1 on the pixels of t
        not_counted = torch.full_like(current, self.classes)
        self.everywhere.add(torch.where(inside, current, not_counted), back)
        if visible is not None:
            self.visible.add(torch.where(inside & visible, current, not_counted), back)


class VideoConsistency:
    """VC_n (Miao et al., "VSPW", CVPR 2021): in every window of n frames, of the pixels whose label stays the same, the
    share whose predicted class does too.

    `constant` sums those shares, `correct` the shares of pixels whose prediction also equals the label; their means
    over `windows` are mVC_n. A window without a pixel of constant label is not counted; unlabelled pixels have none.
    """

    def __init__(self, window: int):
        self.window = window
        self.constant, self.correct, self.windows = 0.0, 0.0, 0
        self.begin()

    def begin(self) -> None:
        """Begin a new video: earlier frames belong to other windows."""
        self._before: tuple[Tensor, Tensor] | None = None  # label and prediction of the frame before

    def add(self, label: Tensor, prediction: Tensor, labelled: Tensor) -> None:
        """Add the next frame: class indices (H,W); labelled: (H,W) bool, where the label is a class."""
        if self._before is None:
            self._same_label = labelled.int()
            self._same_prediction = torch.ones_like(self._same_label)
        else:
            # Number of frames for which a pixel has had its class, this one included.
            self._same_label = torch.where(label == self._before[0], self._same_label + 1, 1) * labelled
            self._same_prediction = torch.where(prediction == self._before[1], self._same_prediction + 1, 1)
        self._before = label, prediction
        steady = self._same_label >= self.window
        count = int(steady.sum())
        if count:
            kept = steady & (self._same_prediction >= self.window)
            self.constant += int(kept.sum()) / count
            self.correct += int((kept & (prediction == label)).sum()) / count
            self.windows += 1
