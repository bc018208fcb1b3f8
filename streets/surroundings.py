"""Textures of what does not move: ground, houses, walls, fences, plants and the sky."""
from dataclasses import dataclass

import cv2
import numpy as np

from streets.texture import Canvas, Colour, Label, Texture, grained, noise, pick, scaled

GROUND_DENSITY = 32  # texels per metre
FACADE_DENSITY = 28
TILE_LENGTH = 12.0  # metres of street in one ground tile
TILE_REACH = 22.0  # a ground tile spans x from -TILE_REACH to TILE_REACH metres


@dataclass(frozen=True)
class Profile:
    """Cross-section of a street, left and right edges as x in metres, and its ground colours; the camera is near x = 0.

    From the road outwards each side has a verge at the kerb (its width may be 0), a sidewalk, then open ground.
    parking: which sides have a lane of parked vehicles.
    """

    road: tuple[float, float]
    verge: tuple[float, float]
    walk: tuple[float, float]
    parking: tuple[bool, bool]
    centre_line: float
    colours: dict[Label, Colour]  # of its ground


def ground_tile(rng: np.random.Generator, profile: Profile, crossing: bool) -> Texture:
    """Draw a tile of street, 2 * TILE_REACH by TILE_LENGTH metres; the top row is the far end.

    crossing: whether another street crosses on this tile, with a zebra crossing at the near end.
    """
    height, width = round(TILE_LENGTH * GROUND_DENSITY), round(2 * TILE_REACH * GROUND_DENSITY)
    x = (np.arange(width) + 0.5) / GROUND_DENSITY - TILE_REACH
    label_row = np.full(width, Label.TERRAIN, np.uint8)
    label_row[(x > profile.walk[0]) & (x < profile.walk[1])] = Label.SIDEWALK
    label_row[(x > profile.verge[0]) & (x < profile.verge[1])] = Label.TERRAIN
    label_row[(x > profile.road[0]) & (x < profile.road[1])] = Label.ROAD
    label = np.repeat(label_row[None], height, axis=0)
    z = TILE_LENGTH - (np.arange(height) + 0.5) / GROUND_DENSITY
    if crossing:
        label[(z > 3.2) & (z < 10.5)] = Label.ROAD
        label[np.ix_((z <= 3.2) | (z >= 10.5), label_row == Label.TERRAIN)] = Label.SIDEWALK
    rgb = np.empty((height, width, 3), np.float32)
    for value, colour in profile.colours.items():
        rgb[label == value] = colour
    step = round(float(rng.uniform(0.6, 1.6)) * GROUND_DENSITY)  # of the slabs of a sidewalk
    joints = np.zeros(label.shape, bool)
    joints[::step] = joints[:, ::step] = True
    rgb[joints & (label == Label.SIDEWALK)] *= 0.8
    _draw_marks(rng, rgb, profile, x, z, crossing)
    kerb = cv2.morphologyEx((label == Label.ROAD).astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((7, 7), np.uint8)) > 0
    rgb[kerb & (label != Label.ROAD)] *= 1.22
    patch = noise(rng, height, width, (48, 160))
    rgb[patch > 1.5] *= 0.86  # repaired asphalt and stains, on every kind of ground
    rough = noise(rng, height, width, (6, 20)) * np.where(label == Label.TERRAIN, 0.12, 0.03).astype(np.float32)
    rgb *= (1 + rough)[..., None]
    return Texture(grained(rng, rgb, 0.07, (2, 24, 90)), label)


def _draw_marks(
    rng: np.random.Generator, rgb: np.ndarray, profile: Profile, x: np.ndarray, z: np.ndarray, crossing: bool
) -> None:
    """Draw lane marks, or the stripes of a zebra crossing; paint belongs to the road class."""
    paint = np.array([215, 215, 205], np.float32) * float(rng.uniform(0.8, 1.08))
    if crossing:
        stripes = (x > profile.road[0] + 0.3) & (x < profile.road[1] - 0.3) & (np.mod(x, 1.1) < 0.55)
        rgb[np.ix_((z > 0.5) & (z < 2.8), stripes)] = paint
        return
    dashes = np.mod(z, 6.0) < 3.0
    rgb[np.ix_(dashes, np.abs(x - profile.centre_line) < 0.09)] = paint
    edges = (np.abs(x - profile.road[0] - 0.35) < 0.06) | (np.abs(x - profile.road[1] + 0.35) < 0.06)
    rgb[:, edges] = rgb[:, edges] * 0.4 + paint * 0.6


def base_ground(rng: np.random.Generator, colour: Colour) -> Texture:
    """Draw coarse terrain for the wide plane under everything."""
    rgb = np.full((256, 256, 3), colour, np.float32)
    return Texture(grained(rng, rgb, 0.12, (4, 16, 60)), np.full((256, 256), Label.TERRAIN, np.uint8))


def facade(rng: np.random.Generator, colours: list[Colour], width: float, height: float) -> Texture:
    """Draw the front of a house, width by height metres: windows, a ground floor with doors or shops, trim."""
    canvas = Canvas(width, height, FACADE_DENSITY)
    building = Label.BUILDING
    base, trim = pick(rng, colours), pick(rng, colours)
    canvas.box(0, 0, width, height, base, building)
    glass = scaled((120, 140, 160), float(rng.uniform(0.25, 1.4)))
    floor = float(rng.uniform(2.7, 3.5))
    pitch, share = float(rng.uniform(1.7, 3.4)), float(rng.uniform(0.4, 0.72))
    count = max(1, int(width / pitch))
    pitch = width / count
    for bottom in np.arange(floor, height - 1.8, floor):
        for column in range(count):
            left, right = (column + 0.5 - share / 2) * pitch, (column + 0.5 + share / 2) * pitch
            canvas.box(left - 0.1, bottom + 0.7, right + 0.1, bottom + 2.4, trim, building)
            pane = scaled(glass, float(rng.uniform(0.7, 1.3)))
            canvas.box(left, bottom + 0.8, right, bottom + 2.3, pane, building)
    if rng.random() < 0.6:
        canvas.box(0, 0, width, floor - 0.3, pick(rng, colours), building)
    for column in range(count):
        left = (column + 0.12) * pitch
        low = 0.05 if rng.random() < 0.4 else 0.8
        canvas.box(left, low, left + 0.76 * pitch, 2.3, scaled(glass, float(rng.uniform(0.4, 1.1))), building)
    if rng.random() < 0.5:
        for x in np.arange(0.1, width, pitch * 2):  # pilasters, as narrow and upright as poles
            canvas.box(x - 0.12, 0, x + 0.12, height, trim, building)
    canvas.box(0, height - 0.35, width, height, trim, building)
    return canvas.texture(rng, 0.07)


def wall(rng: np.random.Generator, colours: list[Colour], width: float, height: float) -> Texture:
    """Draw a free-standing wall, width by height metres: courses of stone or plain panels under a cap."""
    canvas = Canvas(width, height, 40)
    base = pick(rng, colours)
    canvas.box(0, 0, width, height, base, Label.WALL)
    joint = scaled(base, float(rng.uniform(0.7, 0.9)))
    course, length = float(rng.uniform(0.2, 0.9)), float(rng.uniform(0.5, 3.0))
    for row, bottom in enumerate(np.arange(0, height, course)):
        canvas.box(0, bottom, width, bottom + 0.04, joint, Label.WALL)
        for x in np.arange(length / 2 * (row % 2), width, length):
            canvas.box(x, bottom, x + 0.04, bottom + course, joint, Label.WALL)
    canvas.box(0, height - 0.14, width, height, scaled(base, 1.2), Label.WALL)
    return canvas.texture(rng, 0.08)


def fence(rng: np.random.Generator, colours: list[Colour], width: float, height: float) -> Texture:
    """Draw a fence, width by height metres: posts, rails and upright bars with open gaps."""
    canvas = Canvas(width, height, 48)
    colour = pick(rng, colours)
    pitch = float(rng.uniform(0.22, 0.4))
    thick = pitch * float(rng.uniform(0.45, 0.65))
    for x in np.arange(pitch / 2, width, pitch):
        canvas.box(x - thick / 2, 0, x + thick / 2, height - 0.06, colour, Label.FENCE)
    for y in (0.12, height * 0.55, height - 0.2):
        canvas.box(0, y, width, y + 0.14, scaled(colour, 0.85), Label.FENCE)
    for x in np.arange(0, width + 0.1, 2.4):
        canvas.box(x - 0.09, 0, x + 0.09, height, scaled(colour, 0.75), Label.FENCE)
    return canvas.texture(rng)


def leaf_colour(rng: np.random.Generator) -> Colour:
    """Sample a green to brown colour for plants and terrain."""
    hue, saturation, value = rng.uniform(16, 62), rng.uniform(50, 165), rng.uniform(55, 165)
    rgb = cv2.cvtColor(np.array([[[hue, saturation, value]]], np.uint8), cv2.COLOR_HSV2RGB)[0, 0]
    return float(rgb[0]), float(rgb[1]), float(rgb[2])


def foliage(rng: np.random.Generator, colour: Colour, width: float, height: float, trunk: float) -> Texture:
    """Draw a tree (trunk: height of the bare stem in metres) or bush (trunk 0), width by height metres."""
    canvas = Canvas(width, height, min(64.0, 300 / max(width, height)))
    if trunk:
        canvas.box(width / 2 - 0.15, 0, width / 2 + 0.15, trunk + 0.8, scaled((95, 80, 65), 0.9), Label.VEGETATION)
    crown = height - trunk
    for _ in range(26):
        radius_x, radius_y = width * float(rng.uniform(0.1, 0.24)), crown * float(rng.uniform(0.1, 0.24))
        angle, reach = float(rng.uniform(0, 2 * np.pi)), float(rng.uniform(0, 1)) ** 0.5
        x = width / 2 + (width / 2 - radius_x) * reach * float(np.cos(angle))
        y = trunk + crown / 2 + (crown / 2 - radius_y) * reach * float(np.sin(angle))
        canvas.ellipse(x, y, radius_x, radius_y, scaled(colour, float(rng.uniform(0.7, 1.25))), Label.VEGETATION)
    if not trunk:
        canvas.box(width * 0.12, 0, width * 0.88, height * 0.5, scaled(colour, 0.85), Label.VEGETATION)
    return canvas.texture(rng, 0.2)


def hedge(rng: np.random.Generator, colour: Colour, width: float, height: float) -> Texture:
    """Draw a row of plants, width by height metres, with a ragged top."""
    canvas = Canvas(width, height, min(40.0, 700 / width))
    canvas.box(0, 0, width, height * 0.6, colour, Label.VEGETATION)
    for x in np.arange(0, width, height * 0.22):
        radius = height * float(rng.uniform(0.18, 0.3))
        shade = scaled(colour, float(rng.uniform(0.75, 1.2)))
        canvas.ellipse(x, height * float(rng.uniform(0.5, 0.7)), radius, radius, shade, Label.VEGETATION)
    return canvas.texture(rng, 0.22)


def sky(rng: np.random.Generator) -> Texture:
    """Draw the backdrop at infinity, from clear to overcast, brighter towards the horizon at the bottom."""
    height, width = 256, 512
    blue, pale = float(rng.uniform(150, 230)), float(rng.uniform(0.5, 1.0))  # pale 1 is grey
    top = np.array([blue * pale, blue * (0.3 + 0.7 * pale), blue], np.float32)
    low = np.clip(top * float(rng.uniform(1.05, 1.5)) + 10, 0, 245)
    blend = np.linspace(0, 1, height, dtype=np.float32)[:, None, None] ** 2
    rgb = np.broadcast_to(top * (1 - blend) + low * blend, (height, width, 3))
    cloud = cv2.resize(noise(rng, height, width // 2, (12, 30, 70)), (width, height))
    cover = np.clip(cloud - float(rng.uniform(-1.5, 1.5)), 0, 1)[..., None] * 0.7
    rgb = rgb * (1 - cover) + 228 * cover
    return Texture(np.clip(rgb, 0, 255).astype(np.uint8), np.full((height, width), Label.SKY, np.uint8))
