"""Classes, textures, and the canvas on which all surfaces of a street are drawn."""
from enum import IntEnum

import cv2
import numpy as np

from config.cityscapes import CITYSCAPES

Colour = tuple[float, float, float]
Vector = tuple[float, float]  # a point or a velocity in a plane


class Label(IntEnum):
    """Cityscapes labelIds of the 19 evaluated classes, in their order."""

    (ROAD, SIDEWALK, BUILDING, WALL, FENCE, POLE, LIGHT, SIGN, VEGETATION, TERRAIN, SKY, PERSON, RIDER, CAR, TRUCK, BUS,
     TRAIN, MOTORCYCLE, BICYCLE) = CITYSCAPES.label_ids


class Texture:
    """A picture for a planar surface, with a class for each texel and area-shrunk copies.

    rgb: (h,w,3) uint8 colour. label: (h,w) uint8 labelIds, 0 for transparent texels; without any, it is `solid`.
    """

    def __init__(self, rgb: np.ndarray, label: np.ndarray) -> None:
        self.size = (label.shape[1], label.shape[0])  # width and height, texels
        opaque = label > 0
        self.solid = bool(opaque.all())
        counts = cv2.calcHist([label], [0], None, [256], [0, 256]).ravel()[1:]
        self.main_label = int(counts.argmax()) + 1
        self.single_label = int((counts > 0).sum()) == 1
        # Premultiplied by alpha, so that shrinking and bilinear sampling do not bleed the background in.
        alpha = opaque.view(np.uint8) * np.uint8(255)
        self._rgba = cv2.bitwise_and(cv2.merge([*cv2.split(rgb), alpha]), cv2.merge([alpha] * 4))
        # Soft edges read the class of transparent texels, so these get that of a drawn texel nearby, or the main one.
        if self.single_label:
            self._label = np.full_like(label, self.main_label)
        else:
            filled = np.where(opaque, label, cv2.dilate(label, np.ones((9, 9), np.uint8)))
            self._label = np.where(filled > 0, filled, self.main_label).astype(np.uint8)
        self._levels: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    def level(self, shrink_x: int, shrink_y: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the texture shrunk by 2**shrink_x across and 2**shrink_y down: a slanted view needs more on one side.

        (h,w,4) uint8 premultiplied RGBA, and (h,w) uint8 labelIds, which transparent texels have too.
        """
        key = (shrink_x, shrink_y)
        if key not in self._levels:
            width, height = self.size
            size = (max(1, width >> shrink_x), max(1, height >> shrink_y))
            rgba = self._rgba if key == (0, 0) else cv2.resize(self._rgba, size, interpolation=cv2.INTER_AREA)
            rows = ((np.arange(size[1]) + 0.5) * height / size[1]).astype(int)
            columns = ((np.arange(size[0]) + 0.5) * width / size[0]).astype(int)
            self._levels[key] = (rgba, np.ascontiguousarray(self._label[rows[:, None], columns]))
        return self._levels[key]


Sprite = tuple[Texture, float, float]  # a picture, its width and height in metres


def noise(rng: np.random.Generator, height: int, width: int, cells: tuple[int, ...]) -> np.ndarray:
    """Sample a smooth random field (height,width) float32 of blobs of `cells` texels, mean about 0, deviation 1."""
    total = np.zeros((height, width), np.float32)
    for cell in cells:
        grid = rng.standard_normal((height // cell + 2, width // cell + 2), dtype=np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_LINEAR)
    return total * np.float32(1.4 / len(cells) ** 0.5)


def palette(rng: np.random.Generator) -> list[Colour]:
    """Sample the colours (RGB, 0..255) that houses, walls, vehicles and clothes of one sequence share."""
    hsv = np.stack([rng.uniform(0, 180, 9), 210 * rng.beta(1.2, 2.6, 9), rng.uniform(45, 235, 9)], axis=-1)
    rgb = cv2.cvtColor(hsv.astype(np.uint8)[None], cv2.COLOR_HSV2RGB)[0]
    return [(float(red), float(green), float(blue)) for red, green, blue in rgb]


def pick(rng: np.random.Generator, colours: list[Colour]) -> Colour:
    """Sample a colour of the palette, a little lighter or darker."""
    return scaled(colours[int(rng.integers(len(colours)))], float(rng.uniform(0.8, 1.15)))


def scaled(colour: Colour, factor: float) -> Colour:
    """Return a colour made lighter (factor above 1) or darker, kept within 0..255."""
    red, green, blue = (min(255.0, max(0.0, channel * factor)) for channel in colour)
    return red, green, blue


def grained(rng: np.random.Generator, rgb: np.ndarray, strength: float, cells: tuple[int, ...]) -> np.ndarray:
    """Return colours (h,w,3) as uint8, their brightness modulated by smooth noise of relative `strength`."""
    height, width = rgb.shape[:2]
    factor = 1 + strength * noise(rng, height, width, cells)
    return np.clip(rgb * factor[..., None], 0, 255).astype(np.uint8)


_ANGLES = np.linspace(0, 2 * np.pi, 28, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=-1)


class Canvas:
    """A drawing area of width x height metres, x from the left edge, y up from the bottom edge.

    density: texels a metre. Undrawn parts stay transparent.
    """

    _SHIFT = 4

    def __init__(self, width: float, height: float, density: float = 72) -> None:
        self.width, self.height, self.density = width, height, density
        shape = (max(2, round(height * density)), max(2, round(width * density)))
        self.rgb = np.zeros((*shape, 3), np.uint8)
        self.label = np.zeros(shape, np.uint8)

    def polygon(self, points: list[Vector] | np.ndarray, colour: Colour, label: int) -> None:
        """Fill a polygon with corners (n,2), metres."""
        corners = np.asarray(points, np.float64) * self.density
        corners[:, 1] = self.label.shape[0] - corners[:, 1]
        fixed = np.round((corners - 0.5) * (1 << self._SHIFT)).astype(np.int32)
        cv2.fillPoly(self.rgb, [fixed], colour, shift=self._SHIFT)
        cv2.fillPoly(self.label, [fixed], int(label), shift=self._SHIFT)

    def box(self, left: float, bottom: float, right: float, top: float, colour: Colour, label: int) -> None:
        """Fill an upright rectangle."""
        self.polygon([(left, bottom), (right, bottom), (right, top), (left, top)], colour, label)

    def ellipse(self, x: float, y: float, radius_x: float, radius_y: float, colour: Colour, label: int) -> None:
        """Fill an ellipse around (x, y)."""
        self.polygon(_CIRCLE * (radius_x, radius_y) + (x, y), colour, label)

    def bar(self, start: Vector, end: Vector, thick: float, colour: Colour, label: int) -> None:
        """Draw a straight bar `thick` metres wide with round ends."""
        (x0, y0), (x1, y1) = start, end
        length = max(1e-6, float(np.hypot(x1 - x0, y1 - y0)))
        across_x, across_y = -(y1 - y0) / length * thick / 2, (x1 - x0) / length * thick / 2
        corners = [(x0 + across_x, y0 + across_y), (x1 + across_x, y1 + across_y)]
        corners += [(x1 - across_x, y1 - across_y), (x0 - across_x, y0 - across_y)]
        self.polygon(corners, colour, label)
        for x, y in (start, end):
            self.ellipse(x, y, thick / 2, thick / 2, colour, label)

    def sprite(self, rng: np.random.Generator) -> Sprite:
        """Return the drawing as a sprite."""
        return self.texture(rng), self.width, self.height

    def texture(self, rng: np.random.Generator, grain: float = 0.06) -> Texture:
        """Return the drawing with smooth brightness grain, darker towards the bottom."""
        height = self.label.shape[0]
        fall = np.linspace(1.06, 0.86, height, dtype=np.float32)[:, None, None]
        return Texture(grained(rng, self.rgb * fall, grain, (3, 12, 40)), self.label)
