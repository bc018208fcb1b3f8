"""Optical flow without training: dense inverse search (DIS; Kroeger et al., ECCV 2016) of OpenCV, on the CPU."""
import threading
from itertools import pairwise

import cv2
import numpy as np
from torch import nn

PRESETS = {  # OpenCV's preset, and the finest scale (0: the picture itself), in the first three the preset's own
    "ultrafast": (cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST, 2), "fast": (cv2.DISOPTICAL_FLOW_PRESET_FAST, 2),
    "medium": (cv2.DISOPTICAL_FLOW_PRESET_MEDIUM, 1), "fine": (cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST, 1),
    "finest": (cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST, 0),
}
SIDE, PRESET = 256, "fine"
LEAST = 16  # pixels that DIS requires of a side
_of_thread = threading.local()  # DIS keeps its working memory, so threads cannot share one


class DISFlow(nn.Module):
    """A classical flow: it compares small grey pictures of two frames. It has no parameters.

    side: the pictures' shorter side in pixels; frames that are smaller keep their size. preset: a name of PRESETS.
    """

    def __init__(self, side: int = SIDE, preset: str = PRESET):
        super().__init__()
        self.side, self.preset = side, preset

    @property
    def settings(self) -> dict[str, int | str]:
        """What distinguishes it from another, as checkpoints, exports and metrics record it."""
        return {"side": self.side, "preset": self.preset}

    def look_size(self, frame: tuple[int, int]) -> tuple[int, int]:
        """Size (H',W') of the grey pictures of frames (H,W)."""
        shrink = min(1.0, self.side / min(frame))
        return max(1, round(frame[0] * shrink)), max(1, round(frame[1] * shrink))

    def look(self, frame: np.ndarray) -> np.ndarray:
        """Frame (H,W,3) uint8 RGB -> the grey picture (H',W') uint8 of it that `between` compares."""
        grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)  # (H,W)
        height, width = self.look_size((grey.shape[0], grey.shape[1]))
        return cv2.resize(grey, (width, height), interpolation=cv2.INTER_AREA)

    def along(self, clip: np.ndarray) -> np.ndarray:
        """Frames (T,H,W,3) uint8 RGB of a clip -> flow (T-1,2,H',W') from each to the one before it, in pixels of the
        grey pictures."""
        looks, size = [self.look(frame) for frame in clip], self.look_size(clip.shape[1:3])
        return np.stack([self.between(previous, current, size) for previous, current in pairwise(looks)])

    def between(self, previous: np.ndarray, current: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Two looks (H',W') of frames in their order -> flow (2,h,w) float32 at `size`, from the current frame to the
        previous one, x first, in pixels of `size` with corners aligned."""
        (rows, columns), (height, width) = current.shape, size
        padded = (0, max(0, LEAST - rows), 0, max(0, LEAST - columns))
        looks = [cv2.copyMakeBorder(look, *padded, cv2.BORDER_REPLICATE) for look in (current, previous)]
        flow = _engine(self.preset).calc(*looks, None)[:rows, :columns]  # type: ignore[call-overload]  # no initial flow
        way = cv2.INTER_AREA if height < rows else cv2.INTER_LINEAR
        # A frame of one row or column has no displacement across it.
        flow = flow * np.array([(width - 1) / max(columns - 1, 1), (height - 1) / max(rows - 1, 1)], np.float32)
        if (height, width) != flow.shape[:2]:
            flow = cv2.resize(flow, (width, height), interpolation=way)  # (h,w,2)
        return np.ascontiguousarray(flow.transpose(2, 0, 1))


def _engine(preset: str) -> cv2.DISOpticalFlow:
    """This thread's DIS with a preset."""
    engines, (number, finest) = _of_thread.__dict__, PRESETS[preset]
    if preset not in engines:
        engines[preset] = cv2.DISOpticalFlow.create(number)
    engines[preset].setFinestScale(finest)  # small pictures change it, for good
    return engines[preset]
