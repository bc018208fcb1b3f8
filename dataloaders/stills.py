"""Short clips made from single labelled pictures, as a moving camera and moving objects would show them.

The last frame is the picture itself, so its label is exact. Earlier frames show the scene from earlier positions of the
camera. Each class has its own depth (parallax). Connected regions of movable classes move by themselves, and cover and
uncover the background. Light, focus and noise vary. The true optical flow is known.

Frames are computed only at the rows and columns that are needed: those of a training crop, or of its 1/8 view.
"""
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from config.schema import DatasetConfig
from dataloaders.cache import PictureCache
from dataloaders.clips import ClipDataset, LabelledFrame, SizedDataset
from models.warp import sample_at

MOST_OBJECTS = 10  # the largest regions of movable classes move by themselves; the others are part of the scene
LEAST_PIXELS = 60  # of a region that moves
HORIZON = 0.42  # mean height of the vanishing point, from the top
STATIC_DEPTHS = {"sky": 0.02, "static": 0.35}  # inverse depth, 1 at the lower edge of the picture
COARSE = 4  # depth and hidden background are smooth, so a quarter of the picture's size is enough
Point = tuple[float, float]


class StillsDataset(SizedDataset):
    """Labelled pictures, from each of which a clip of `steps` + 1 frames is made.

    Items: `clip` (1,H,W,3) uint8 RGB, `label` (H,W) uint8 and `name`, as of ClipDataset; `objects` (H,W) uint8, 1, 2,
    ... on connected regions of movable classes, the farthest (by lower edge) first, 0 elsewhere; and `steps`, int.
    """

    def __init__(
        self, frames: Sequence[LabelledFrame], steps: int, dataset: DatasetConfig, cache: PictureCache | None = None
    ):
        self.pictures, self.steps = ClipDataset(frames, 0, dataset, cache), steps
        self.frames = self.pictures.frames
        self.movable = [dataset.classes.index(name) for name in dataset.movable]

    def __getitem__(self, index: int) -> dict:
        item = self.pictures[index]
        objects = torch.from_numpy(find_objects(item["label"].numpy(), self.movable))
        return item | {"objects": objects, "steps": self.steps}


def find_objects(label: np.ndarray, movable: Sequence[int]) -> np.ndarray:
    """Return the number of the moving object at every pixel of `label` (H,W) as uint8: 0 for none, far objects first.

    Regions that touch the picture's edge stay part of the scene: the rest of them is unknown.
    """
    boxes, objects = [], np.zeros_like(label)
    for kind in movable:
        count, regions, stats, _ = cv2.connectedComponentsWithStats((label == kind).astype(np.uint8), connectivity=8)
        right, lower = stats[:, 0] + stats[:, 2], stats[:, 1] + stats[:, 3]
        inside = (stats[:, :2] > 0).all(axis=1) & (right < label.shape[1]) & (lower < label.shape[0])
        inside &= stats[:, cv2.CC_STAT_AREA] >= LEAST_PIXELS
        boxes += [(stats[i], regions, i) for i in range(1, count) if inside[i]]
    boxes = sorted(boxes, key=lambda box: -box[0][cv2.CC_STAT_AREA])[:MOST_OBJECTS]
    boxes.sort(key=lambda box: box[0][cv2.CC_STAT_TOP] + box[0][cv2.CC_STAT_HEIGHT])
    for number, (stat, regions, i) in enumerate(boxes, 1):
        x, y, width, height = stat[:4]
        here = (slice(y, y + height), slice(x, x + width))
        objects[here][regions[here] == i] = number
    return objects


@dataclass(frozen=True)
class Camera:
    """How the camera of one picture's clip moves a frame. Lengths are fractions of the picture's width or height."""

    vanishing: tuple[float, float]  # x, y of the vanishing point
    forward: float  # shrinking towards the vanishing point, at inverse depth 1
    yaw: float
    pitch: float
    roll: float  # radians
    shake: tuple[tuple[float, float], ...]  # x, y in addition, by frame

    def offset(self, back: int) -> tuple[float, float, float]:
        """Return the shift x, y and the rotation of the frame `back` frames ago."""
        return self.yaw * back + self.shake[back - 1][0], self.pitch * back + self.shake[back - 1][1], self.roll * back


def draw_camera(rng: np.random.Generator, steps: int) -> Camera:
    """Draw a camera for a clip of `steps` + 1 frames."""
    return Camera(
        vanishing=(rng.normal(0.5, 0.05), rng.normal(HORIZON, 0.04)), forward=max(-0.02, rng.uniform(-0.03, 0.13)),
        yaw=rng.normal(0, 0.008), pitch=rng.normal(0, 0.002), roll=rng.normal(0, 0.002),
        shake=tuple((rng.normal(0, 0.001), rng.normal(0, 0.002)) for _ in range(steps)),
    )


@dataclass(frozen=True)
class Object:
    """A moving object: its place in the last frame, pixels; velocity (fractions of width, height), growth a frame."""

    centre: Point  # x, y
    bottom: int
    velocity: tuple[float, float]
    growth: float


def draw_objects(rng: np.random.Generator, objects: np.ndarray) -> list[Object]:
    """Draw the motion of every object of `objects` (H,W), numbers as of `find_objects`."""
    found = []
    for number in range(1, int(objects.max()) + 1):
        rows, columns = (np.flatnonzero((objects == number).any(axis)) for axis in (1, 0))
        x, y, growth = (rng.normal(0, spread) for spread in (0.012, 0.002, 0.02)) if rng.random() < 0.7 else (0.0,) * 3
        centre = (float(columns[0] + columns[-1]) / 2, float(rows[0] + rows[-1]) / 2)
        found.append(Object(centre, int(rows[-1]) + 1, (x, y), growth))
    return found


class MadeClips:
    """Clips that end at pictures (N,H,W,3) uint8 with labels (N,H,W) uint8, on the pictures' device.

    objects: (N,H,W) uint8 on the CPU. seeds: integers for each picture, the only source of randomness of its clip.
    steps: frames before the last.
    """

    def __init__(
        self, image: Tensor, label: Tensor, objects: Tensor, steps: int, dataset: DatasetConfig, *,
        seeds: Sequence[Sequence[int]],
    ):
        self.size = (label.shape[1], label.shape[2])
        self.rngs = [np.random.default_rng(list(words)) for words in seeds]
        self.cameras = [draw_camera(rng, steps) for rng in self.rngs]
        self.movers = [draw_objects(rng, each) for rng, each in zip(self.rngs, objects.numpy())]
        self.objects = objects.to(image.device, non_blocking=True)
        self.depth = inverse_depth(label[:, ::COARSE, ::COARSE], self.cameras, dataset, self.rngs)  # (N,H/4,W/4)
        colours = image.permute(0, 3, 1, 2).float()  # (N,3,H,W)
        self.layers = torch.cat([colours, without_objects(colours, self.objects)], dim=1)  # (N,6,H,W)
        self.shots = [[draw_shot(rng, back) for rng in self.rngs] for back in range(1, steps + 1)]

    def frame(self, back: int, rows: np.ndarray, columns: np.ndarray) -> Tensor:
        """Return the frame `back` frames before the last at `rows` (h,), `columns` (w,): (N,3,h,w) float32, 0..255."""
        at_x, at_y = self._points(rows, columns)  # (N,h,w)
        x, y = self._scene(back, at_x, at_y)
        owner = self._owners(back, at_x, at_y, (x, y))
        seen = sample_at(self.layers, *mirrored(x, y, self.size))  # (N,6,h,w)
        # A blur of one pixel is less than one pixel of a coarser view.
        dense = 1 / max(1.0, float(rows[-1] - rows[0]) / max(len(rows) - 1, 1))
        return exposed(torch.where((owner > 0)[:, None], seen[:, :3], seen[:, 3:]), self.shots[back - 1], dense)

    def flow(self, rows: np.ndarray, columns: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return the true flow from the last frame to the previous one, at `rows` (h,) and `columns` (w,).

        (N,2,h,w) pixels of the picture, x first; and (N,h,w) bool, whether the previous frame shows the point. Inverts
        `frame`: by fixed-point iteration for the scene, in closed form for objects.
        """
        at_x, at_y = self._points(rows, columns)  # (N,h,w)
        x, y = at_x, at_y
        for _ in range(4):
            away_x, away_y = self._scene(1, x, y)
            x, y = at_x - (away_x - x), at_y - (away_y - y)
        here = nearest(self.objects, at_x, at_y)  # (N,h,w)
        for n, number, now, then, grown in self._places(1):
            mine = here[n] == number
            x[n] = torch.where(mine, then[0] + (at_x[n] - now[0]) * grown, x[n])
            y[n] = torch.where(mine, then[1] + (at_y[n] - now[1]) * grown, y[n])
        owner = self._owners(1, x, y, None)
        within = (x > -0.5) & (x < self.size[1] - 0.5) & (y > -0.5) & (y < self.size[0] - 0.5)
        return torch.stack([x - at_x, y - at_y], dim=1), within & (owner == here)  # (N,2,h,w), (N,h,w)

    def _points(self, rows: np.ndarray, columns: np.ndarray) -> tuple[Tensor, Tensor]:
        shape = (len(self.cameras), len(rows), len(columns))
        y, x = (torch.from_numpy(axis).to(self.layers.device, non_blocking=True) for axis in (rows, columns))
        return x.expand(shape).clone(), y[:, None].expand(shape).clone()  # (N,h,w) each

    def _scene(self, back: int, at_x: Tensor, at_y: Tensor) -> tuple[Tensor, Tensor]:
        """Return where points (N,h,w) of the static scene, in the frame `back` frames ago, are in the picture."""
        last_y, last_x = self.depth.shape[1] - 1, self.depth.shape[2] - 1  # depth is constant beyond its last points
        coarse_x, coarse_y = (at_x / COARSE).clamp(0, last_x), (at_y / COARSE).clamp(0, last_y)
        depth = sample_at(self.depth[:, None], coarse_x, coarse_y)[:, 0]  # (N,h,w)
        x, y = torch.empty_like(at_x), torch.empty_like(at_y)
        for n, camera in enumerate(self.cameras):
            centre_x, centre_y = camera.vanishing[0] * self.size[1], camera.vanishing[1] * self.size[0]
            from_x, from_y = at_x[n] - centre_x, at_y[n] - centre_y
            shift_x, shift_y, turn = camera.offset(back)
            swing = 0.5 + 0.5 * depth[n]  # rotation moves everything alike; near points move more, as cameras also sway
            grown = 1 / (1 - camera.forward * back * depth[n]).clamp(min=0.3)  # distance from centre, now over then
            x[n] = centre_x + from_x * grown + shift_x * self.size[1] * swing - turn * from_y
            y[n] = centre_y + from_y * grown + shift_y * self.size[0] * swing + turn * from_x
        return x, y

    def _owners(self, back: int, at_x: Tensor, at_y: Tensor, sources: tuple[Tensor, Tensor] | None) -> Tensor:
        """Return which object, 0 for none, the frame `back` frames ago shows at points (N,h,w).

        `sources`, x and y (N,h,w), are changed in place to the object's pixels in the picture where one is shown.
        """
        owner = torch.zeros(at_x.shape, dtype=self.objects.dtype, device=at_x.device)
        for n, number, now, then, grown in self._places(back):
            x, y = now[0] + (at_x[n] - then[0]) / grown, now[1] + (at_y[n] - then[1]) / grown
            mine = nearest(self.objects[n : n + 1], x[None], y[None])[0] == number
            owner[n] = torch.where(mine, torch.full_like(owner[n], number), owner[n])
            for source, place in zip(sources or (), (x, y)):
                source[n] = torch.where(mine, place, source[n])
        return owner

    def _places(self, back: int) -> Iterator[tuple[int, int, Point, Point, float]]:
        """Yield for every object its picture, its number, its centre (x, y) in the last frame, its centre `back` frames
        ago, and its size then over now. The nearest of a picture comes last, since it covers the others."""
        for n, (camera, movers) in enumerate(zip(self.cameras, self.movers)):
            for number, mover in enumerate(movers, 1):
                ground = max(0.05, (mover.bottom / self.size[0] - camera.vanishing[1]) / (1 - camera.vanishing[1]))
                shrunk = max(0.3, 1 - camera.forward * back * ground)
                swing = 0.5 + 0.5 * ground
                x, y = (
                    origin * side + (now - origin * side) * shrunk - (turned * swing + velocity * back) * side
                    for origin, side, now, turned, velocity in zip(
                        camera.vanishing, self.size[::-1], mover.centre, camera.offset(back), mover.velocity
                    )
                )
                yield n, number, mover.centre, (x, y), shrunk * max(0.5, 1 - mover.growth * back)


def inverse_depth(
    label: Tensor, cameras: Sequence[Camera], dataset: DatasetConfig, rngs: Sequence[np.random.Generator]
) -> Tensor:
    """Return the inverse depth (N,H,W) by class, smooth at borders; 1 at the lower edge of level ground."""
    count, height, width = label.shape
    rows = torch.arange(height, device=label.device) / max(height - 1, 1)  # (H,)
    ground = torch.stack([((rows - c.vanishing[1]) / (1 - c.vanishing[1])).clamp(min=0.02) for c in cameras])  # (N,H)
    ground = ground[:, :, None].expand(count, height, width)  # (N,H,W)
    factors = torch.full((count, 256), STATIC_DEPTHS["static"])
    is_ground = torch.zeros(256, dtype=torch.bool)
    spread = np.stack([rng.uniform(0.5, 1.6, dataset.num_classes) for rng in rngs])  # (N,classes)
    factors[:, : dataset.num_classes] = torch.from_numpy(STATIC_DEPTHS["static"] * spread)
    factors[:, [dataset.classes.index(name) for name in dataset.sky]] = STATIC_DEPTHS["sky"]
    is_ground[[dataset.classes.index(name) for name in dataset.ground]] = True
    ids = label.long()
    depth = torch.gather(factors.to(label.device, non_blocking=True), 1, ids.flatten(1)).view(label.shape)  # (N,H,W)
    # What is lower in the picture than its depth allows is nearer: the depth of the ground there is the limit.
    on_ground = is_ground.to(label.device, non_blocking=True)[ids]  # (N,H,W)
    depth = torch.where(on_ground, ground, torch.minimum(depth, ground.clamp(min=0.15) + 0.1))
    kernel = max(3, height // 40 * 2 + 1)
    return F.avg_pool2d(depth[:, None], kernel, stride=1, padding=kernel // 2, count_include_pad=False)[:, 0]  # (N,H,W)


def nearest(x: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """Return x (N,H,W) at the pixels nearest to columns, rows (N,h,w): (N,h,w), 0 outside."""
    height, width = x.shape[1:]
    column, row = columns.round(), rows.round()
    within = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    index = row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
    return torch.gather(x.flatten(1), 1, index.flatten(1)).view(index.shape) * within  # (N,h,w)


def mirrored(x: Tensor, y: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return coordinates beyond the picture's edges reflected into it: the unseen is filled with what is next to it."""
    folded = []
    for each, side in ((x, size[1]), (y, size[0])):
        period = max(2 * (side - 1), 1)
        each = each.remainder(period)
        folded.append(torch.minimum(each, period - each).clamp(0, side - 1))
    return folded[0], folded[1]


def without_objects(colours: Tensor, objects: Tensor) -> Tensor:
    """Return pictures (N,3,H,W) with the objects (N,H,W) filled by the colours around them."""
    known = (objects == 0)[:, None]  # (N,1,H,W)
    weight = F.avg_pool2d(known.float(), COARSE, ceil_mode=True)
    levels = [(F.avg_pool2d(colours * known, COARSE, ceil_mode=True), weight)]  # (N,3,H/4,W/4), (N,1,H/4,W/4)
    while min(levels[-1][0].shape[-2:]) > 2:
        total, weight = (F.avg_pool2d(x, 2, ceil_mode=True) for x in levels[-1])
        levels.append((total, weight))
    filled = levels[-1][0] / levels[-1][1].clamp(min=1e-6)
    for total, weight in reversed(levels[:-1]):
        coarse = F.interpolate(filled, size=total.shape[-2:], mode="bilinear", align_corners=False)  # as total
        filled = torch.where(weight > 0, total / weight.clamp(min=1e-6), coarse)
    behind = F.interpolate(filled, size=colours.shape[-2:], mode="bilinear", align_corners=False)  # (N,3,H,W)
    return torch.where(known, colours, behind)


Shot = tuple[float, float, float, float, int]


def draw_shot(rng: np.random.Generator, back: int) -> Shot:
    """Draw how the frame `back` frames before the last is taken.

    Returns its softness (0..1), gain, offset and grain (both on the 0..255 scale), and the seed of the grain.
    """
    softness = rng.uniform(0.2, 0.9) if rng.random() < 0.4 else 0.0
    gain, offset = 1 + rng.normal(0, 0.01) * back, rng.normal(0, 1.5) * back
    return softness, gain, offset, rng.uniform(0, 4), int(rng.integers(2**62))


def exposed(frame: Tensor, shots: Sequence[Shot], dense: float) -> Tensor:
    """Return frames (N,3,h,w) as a camera takes them: other light, sometimes a softer focus, noise.

    dense: rows of the frame for each row of the picture, at most 1.
    """
    softened = F.avg_pool2d(frame, 3, stride=1, padding=1, count_include_pad=False)
    taken = []
    for one, soft, (softness, gain, offset, grain, seed) in zip(frame, softened, shots):
        noise = torch.Generator(device=one.device).manual_seed(seed)
        grains = torch.randn(one.shape, generator=noise, device=one.device) * grain
        taken.append(torch.lerp(one, soft, softness * dense) * gain + offset + grains)
    return torch.stack(taken).clamp(0, 255)  # (N,3,h,w)
