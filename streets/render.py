"""Draw the frames of a world: colour, class, depth, and the true flow between two of them."""
from dataclasses import dataclass

import cv2
import numpy as np

from streets.scene import FRAME_RATE, World
from streets.surface import Kind, Surface

NEAR = 0.4  # metres: nothing nearer to the camera plane is drawn
HORIZON = 0.49  # share of the picture that a level camera has above the horizon
SKY_DEPTH = 2e4  # metres: only the sky is farther away
_CORNERS = np.array([[0, 0, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1]], np.float64)
_RAMP = np.clip(np.minimum(np.arange(32), np.arange(32)[::-1]) / 3.0, 0, 1)
_SHADOW = np.outer(_RAMP, _RAMP).astype(np.float32)  # a picture of a shadow with soft edges


@dataclass(frozen=True)
class Buffers:
    """What one frame shows at each pixel."""

    colour: np.ndarray  # (H,W,4) uint8 RGB before light, haze and noise; the fourth channel has no meaning
    label: np.ndarray  # (H,W) uint8 labelIds
    inverse_depth: np.ndarray  # (H,W) float32, 1 / metres
    surface: np.ndarray  # (H,W) int32 index into the world's surfaces
    maps: np.ndarray  # (n,3,3) for each surface the map from (s, t, 1) to pixel coordinates times depth


def surface_maps(world: World, frame: int, height: int, width: int) -> np.ndarray:
    """Return for each surface the 3x3 map from (s, t, 1) to (x * depth, y * depth, depth) in pixels: (n,3,3)."""
    rotation, position = world.camera(frame)
    focal = width / 2 / np.tan(world.view_angle / 2)
    lens = np.array([[focal, 0, (width - 1) / 2], [0, focal, HORIZON * height - 0.5], [0, 0, 1]])
    frames = np.array([(surface.along, surface.down, surface.origin) for surface in world.surfaces], np.float64)
    frames[:, 2] += np.array([surface.velocity for surface in world.surfaces]) * (frame / FRAME_RATE)
    frames[[surface.kind is not Kind.SKY for surface in world.surfaces], 2] -= position
    return lens @ rotation @ frames.transpose(0, 2, 1)


def draw(world: World, frame: int, height: int, width: int) -> Buffers:
    """Draw one frame, far surfaces first, with a depth test at each pixel."""
    maps = surface_maps(world, frame, height, width)
    buffers = Buffers(
        np.zeros((height, width, 4), np.uint8), np.zeros((height, width), np.uint8),
        np.zeros((height, width), np.float32), np.zeros((height, width), np.int32), maps,
    )
    # The order by centre depth matters for soft edges only; the depth test decides what is hidden.
    order = sorted(range(len(maps)), key=lambda n: (world.surfaces[n].kind.value, -maps[n, 2] @ (0.5, 0.5, 1.0)))
    across, down, depth = maps[:, 0], maps[:, 1], maps[:, 2]
    # The borders of the view over each surface: row @ (s, t, 1) is negative outside.
    borders = [depth - [0, 0, NEAR], across + 0.5 * depth, (width - 0.5) * depth - across]
    planes = np.stack([*borders, down + 0.5 * depth, (height - 0.5) * depth - down], axis=1)  # (n,5,3)
    outside = (planes @ _CORNERS.T < 0).transpose(0, 2, 1)
    seen, cut = ~np.all(outside, axis=1).any(axis=1), np.any(outside, axis=1)
    for index in order:
        if seen[index]:
            outline = clip_outline(planes[index][cut[index]])
            if outline is not None:
                _paint(buffers, index, world.surfaces[index], outline)
    return buffers


def clip_outline(planes: np.ndarray) -> np.ndarray | None:
    """Cut the unit square of a surface along `planes` (k,3). Returns rows (s, t, 1), None if nothing remains."""
    points = _CORNERS
    for plane in planes:
        side = points @ plane
        kept = []
        for number, (here, value) in enumerate(zip(points, side, strict=True)):
            before = side[number - 1]
            if (before >= 0) != (value >= 0):
                kept.append(points[number - 1] + (here - points[number - 1]) * (before / (before - value)))
            if value >= 0:
                kept.append(here)
        if len(kept) < 3:
            return None
        points = np.array(kept)
    return points


def _paint(buffers: Buffers, index: int, surface: Surface, outline: np.ndarray) -> None:
    """Draw one surface into the buffers."""
    surface_map = buffers.maps[index]
    height, width = buffers.label.shape
    screen = outline @ surface_map.T
    screen = screen[:, :2] / screen[:, 2:]
    left, top = np.clip(np.floor(screen.min(axis=0)).astype(int), 0, (width - 1, height - 1))
    right, bottom = np.clip(np.ceil(screen.max(axis=0)).astype(int) + 1, 1, (width, height))
    if abs(np.linalg.det(surface_map)) < 1e-9:
        return  # seen exactly edge-on
    inverse = np.linalg.inv(surface_map)
    # Shift the origin to the corner of the bounding box.
    inverse = inverse @ np.array([[1, 0, left], [0, 1, top], [0, 0, 1.0]])
    window = (slice(top, bottom), slice(left, right))
    size = (int(right - left), int(bottom - top))
    inverse_depth = _plane(inverse[2], size)
    texture = surface.texture
    if texture is None:  # a shade: darken the ground drawn so far
        shadow = _warp(_SHADOW, inverse, size, cv2.INTER_LINEAR, False)
        shadow[inverse_depth <= 0] = 0
        colour = buffers.colour[window]
        colour[...] = colour * (1 - (1 - surface.brightness) * shadow)[..., None]
        return
    rgba, label = texture.level(*_shrink(surface_map, outline.mean(axis=0), texture.size))
    nearer = inverse_depth > buffers.inverse_depth[window]
    if not nearer.any():
        return
    inside = nearer
    if texture.solid:  # only where the rays of pixels meet it within its borders; exact, so there are no seams
        s, t = _plane(inverse[0], size), _plane(inverse[1], size)
        inside = nearer & (s >= 0) & (s <= inverse_depth) & (t >= 0) & (t <= inverse_depth)
    picture = _warp(rgba, inverse, size, cv2.INTER_LINEAR, texture.solid)
    mask = _blend(buffers.colour[window], picture, inside, surface.brightness, texture.solid)
    if texture.single_label:
        buffers.label[window][mask] = texture.main_label
    else:
        buffers.label[window][mask] = _warp(label, inverse, size, cv2.INTER_NEAREST, True)[mask]
    buffers.inverse_depth[window][mask] = inverse_depth[mask]
    buffers.surface[window][mask] = index


def _shrink(surface_map: np.ndarray, centre: np.ndarray, size: tuple[int, int]) -> tuple[int, int]:
    """Return how many times to halve a texture across and down, by its scale at a point in the middle of the view."""
    point = surface_map @ centre
    slopes = (surface_map[:2, :2] - np.outer(point[:2] / point[2], surface_map[2, :2])) / point[2]
    pixels = np.maximum(np.hypot(slopes[0], slopes[1]), 1e-6)  # for the whole texture, across and down
    halvings = np.clip(np.round(np.log2(np.array(size) / pixels)), 0, np.floor(np.log2(np.array(size))))
    return int(halvings[0]), int(halvings[1])


def _plane(row: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return row @ (x, y, 1) at each pixel of a window of `size` (w, h): (h,w) float32."""
    across = (row[0] * np.arange(size[0])).astype(np.float32)
    down = (row[1] * np.arange(size[1]) + row[2]).astype(np.float32)
    return down[:, None] + across


def _warp(picture: np.ndarray, inverse: np.ndarray, size: tuple[int, int], how: int, extend: bool) -> np.ndarray:
    texels = np.diag([picture.shape[1], picture.shape[0], 1.0])
    texels[:2, 2] = -0.5
    border = cv2.BORDER_REPLICATE if extend else cv2.BORDER_CONSTANT
    return cv2.warpPerspective(picture, texels @ inverse, size, flags=how | cv2.WARP_INVERSE_MAP, borderMode=border)


def _blend(target: np.ndarray, picture: np.ndarray, inside: np.ndarray, brightness: float, solid: bool) -> np.ndarray:
    """Mix a premultiplied picture into `target` where `inside`. Returns where it covers at least half the pixel."""
    if solid:
        lit = picture if brightness == 1 else cv2.convertScaleAbs(picture, alpha=brightness)
        cv2.copyTo(lit, inside.view(np.uint8), target)
        return inside
    alpha = picture[..., 3]
    touched = inside & (alpha > 0)
    chosen = picture[touched].astype(np.float32)
    clear = 1 - chosen[:, 3:] / np.float32(255)
    mixed = target[touched] * clear + chosen * np.float32(brightness)
    target[touched] = np.minimum(mixed, 255)
    return inside & (alpha > 127)


def expose(world: World, frame: int, buffers: Buffers, noise_rng: np.random.Generator) -> np.ndarray:
    """Return the camera's picture of drawn colours, (H,W,3) uint8 RGB: haze, changing light, slight blur, noise."""
    width = buffers.label.shape[1]
    clear = np.exp(-1 / np.maximum(buffers.inverse_depth * world.haze_range, 0.25))[..., None].astype(np.float32)
    clear[buffers.inverse_depth < 1 / SKY_DEPTH] = 1.0  # the sky has its own colour
    image = buffers.colour[..., :3] * clear + world.haze.astype(np.float32) * (1 - clear)
    light = np.array([1 + float(wave.at(frame / FRAME_RATE)) for wave in world.light], np.float32)
    image = np.asarray(cv2.GaussianBlur(image * light, (0, 0), max(0.3, 0.55 * width / 512)), np.float32)
    image += noise_rng.standard_normal(image.shape, dtype=np.float32) * np.float32(world.grain)
    return np.clip(image, 0, 255).astype(np.uint8)


def flow_between(now: Buffers, then: Buffers) -> tuple[np.ndarray, np.ndarray]:
    """Return the true motion from each pixel of frame `now` to where its surface point is in frame `then`.

    flow (H,W,2) float32 pixels, x first; visible (H,W) bool, whether that point can be seen there.
    """
    height, width = now.label.shape
    usable = np.abs(np.linalg.det(now.maps)) >= 1e-9
    links = np.tile(np.eye(3), (len(now.maps), 1, 1))
    links[usable] = then.maps[usable] @ np.linalg.inv(now.maps[usable])
    y, x = np.mgrid[:height, :width].astype(np.float32)
    link = links.reshape(-1, 9).astype(np.float32).T[:, now.surface]
    ratio = link[6] * x + link[7] * y + link[8]  # depth then over depth now
    ahead = ratio > 1e-4
    ratio = np.where(ahead, ratio, 1)
    then_x = (link[0] * x + link[1] * y + link[2]) / ratio
    then_y = (link[3] * x + link[4] * y + link[5]) / ratio
    flow = np.stack([then_x - x, then_y - y], axis=-1)
    near_x, near_y = np.rint(then_x), np.rint(then_y)
    within = ahead & (near_x >= 0) & (near_x < width) & (near_y >= 0) & (near_y < height)
    column, row = np.where(within, near_x, 0).astype(int), np.where(within, near_y, 0).astype(int)
    expected = now.inverse_depth / ratio
    same_depth = np.abs(then.inverse_depth[row, column] - expected) <= 0.03 * expected
    # A slanted surface changes depth within a pixel, so the same surface there is enough.
    same_surface = then.surface[row, column] == now.surface
    return flow, within & (same_depth | same_surface)
