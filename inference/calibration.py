"""Frames of a user's own video, on which int8 is set up and label maps are compared."""
import random
from collections.abc import Callable, Sequence
from itertools import pairwise

import cv2
import numpy as np

from config.errors import UserError
from dataloaders.eval_videos import Video
from dataloaders.images import read_image
from inference.video_input import open_frames
from utils.logging import logger

PLACES = 16  # where frames are taken
SPAN = 1800  # frames of a video, from its beginning, among which they are chosen: all up to the last are decoded
Pair = tuple[np.ndarray, np.ndarray]  # two consecutive frames (H,W,3) uint8 RGB
Calibrate = Callable[[], Sequence[Pair]]  # reads the frames when they are first needed


def calibration_pairs(source: str, *, bits: int = 0, seed: int = 1) -> list[Pair]:
    """Pairs of consecutive frames at PLACES, spread over a video or the pictures of a folder; the seed chooses them.

    source: "" for a camera or a stream, which cannot be read twice. Raises UserError for that, and without frames.
    """
    if not source:
        raise UserError("a camera or a stream cannot be read beforehand; name frames like its with --calibrate PATH")
    frames = open_frames(source, bits=bits, option="--calibrate")
    wanted = set(places(min(frames.count or SPAN, SPAN), seed))
    pairs: list[Pair] = []
    previous = None
    for number, image in enumerate(frames):
        if previous is not None and number - 1 in wanted:
            pairs.append((previous, image))
        if number > max(wanted):
            break
        previous = image
    if not pairs and previous is not None:  # a single picture
        pairs = [(previous, previous)]
    logger.info("calibration: %d places of %s", len(pairs), source)
    return pairs


def pairs_of_videos(videos: Sequence[Video], *, bits: int = 0, seed: int = 1) -> list[Pair]:
    """As `calibration_pairs`, of a data set's videos."""
    following = [pair for video in videos for pair in pairwise(video)] or [(video[0], video[0]) for video in videos]
    chosen = [following[place] for place in places(len(following) + 1, seed)]
    return [(read_image(first.path, bits=bits), read_image(second.path, bits=bits)) for first, second in chosen]


def places(count: int, seed: int = 1) -> list[int]:
    """Up to PLACES of `count` frames that have another one after them, one in each of as many equal parts."""
    rng, parts = random.Random(seed), max(1, min(PLACES, count - 1))
    edges = [part * (count - 1) // parts for part in range(parts + 1)]
    return [rng.randrange(low, max(low + 1, high)) for low, high in pairwise(edges)]


def resized(pairs: Sequence[Pair], size: tuple[int, int]) -> list[Pair]:
    """The pairs at size (H,W)."""
    def fitted(image: np.ndarray) -> np.ndarray:
        return image if image.shape[:2] == size else cv2.resize(image, size[::-1])

    return [(fitted(first), fitted(second)) for first, second in pairs]
