"""What does not move in a street: ground, houses, walls, fences, plants, poles, signs and lights."""
import numpy as np

from streets import sprites, surroundings
from streets.surface import Kind, Scenery
from streets.surroundings import TILE_LENGTH, TILE_REACH, Profile
from streets.texture import Colour, Label, Sprite

STREET_START, STREET_END = -12.0, 144.0  # metres along the street at time 0
LANE = 3.4  # metres
PARKING = 2.3


def sample_profile(rng: np.random.Generator, tram: bool) -> Profile:
    """Sample the cross-section of the street; the camera's lane is centred at x = 0.

    tram: whether there is a tram track in the middle of the left side.
    """
    parking = (bool(rng.random() < 0.45), bool(rng.random() < 0.3))
    margins = [PARKING if used else 0.3 for used in parking]
    right = LANE / 2 + margins[1]
    left = -LANE * 1.5 - margins[0] - (LANE if tram else 0.0)
    verge = [float(rng.uniform(1.0, 2.6)) if rng.random() < 0.6 else 0.0 for _ in range(2)]
    walk = [float(rng.uniform(2.4, 4.2)) for _ in range(2)]
    grey = float(rng.uniform(75, 140))
    walk_grey = grey * float(rng.uniform(0.85, 1.35))
    return Profile(
        road=(left, right), verge=(left - verge[0], right + verge[1]),
        walk=(left - verge[0] - walk[0], right + verge[1] + walk[1]), parking=parking, centre_line=-LANE / 2,
        colours={
            Label.ROAD: _tinted(grey, rng, 0.07), Label.SIDEWALK: _tinted(walk_grey, rng, 0.1),
            Label.TERRAIN: surroundings.leaf_colour(rng),
        },
    )


def _tinted(grey: float, rng: np.random.Generator, spread: float) -> Colour:
    """Sample a grey with up to `spread` more or less of each of red, green and blue."""
    red, green, blue = (grey * float(tint) for tint in rng.uniform(1 - spread, 1 + spread, 3))
    return red, green, blue


def lay_ground(stage: Scenery, profile: Profile, crossing: int | None) -> None:
    """Add the ground tiles and the wide plane under them.

    crossing: number of the tile on which another street crosses, or None.
    """
    rng = stage.rng
    # The base lies 2 cm lower, so that the tiles win the depth test.
    base = surroundings.base_ground(rng, profile.colours[Label.TERRAIN])
    stage.add(Kind.GROUND, base, (-150, 0.02, 260), (300, 0, 0), (0, 0, -280))
    plain = surroundings.ground_tile(rng, profile, False)
    special = surroundings.ground_tile(rng, profile, True) if crossing is not None else plain
    for place in range(round((STREET_END - STREET_START) / TILE_LENGTH)):
        near = STREET_START + place * TILE_LENGTH
        # The far and near end of every second plain tile are swapped, so that the stains do not repeat so soon.
        swapped = place % 2 == 0 and place != crossing
        start, down = (near, TILE_LENGTH) if swapped else (near + TILE_LENGTH, -TILE_LENGTH)
        tile = special if place == crossing else plain
        stage.add(Kind.GROUND, tile, (-TILE_REACH, 0, start), (2 * TILE_REACH, 0, 0), (0, 0, down))


def build_side(stage: Scenery, profile: Profile, side: int, gap: tuple[float, float] | None) -> None:
    """Add the blocks along one side of the street, -1 left or 1 right.

    gap: z range in metres that stays open for a crossing street.
    """
    rng = stage.rng
    edge = profile.walk[0] if side < 0 else profile.walk[1]
    houses = [float(rng.uniform(5.5, 14)) for _ in range(4)]
    fronts = [(surroundings.facade(rng, stage.colours, 12.0, height), height) for height in houses]
    trees = [_sample_tree(rng) for _ in range(4)]
    brightness = float(rng.uniform(0.72, 1.05))
    z = STREET_START
    while z < STREET_END:
        length = float(rng.uniform(8, 16))
        if gap and z < gap[1] and z + length > gap[0]:
            if z < gap[0] - 4:
                length = gap[0] - z
            else:
                z = gap[1]
                continue
        sort = ("house", "wall", "fence", "park")[int(rng.choice(4, p=(0.38, 0.2, 0.25, 0.17)))]
        if sort == "house":
            front, height = fronts[int(rng.integers(len(fronts)))]
            x = edge + side * float(rng.uniform(0, 1.5))
            stage.panel(front, (x, z), (x, z + length), height, brightness=brightness)
            stage.panel(front, (x, z), (x + side * 9, z), height, brightness=0.9)  # the gable end towards the camera
            if brightness < 0.9:
                reach = height * 0.55
                stage.shade(min(x, x - side * reach), z, reach, length, brightness=0.62)
        else:
            _open_block(stage, sort, edge, z, length, side, trees)
        z += length


def _open_block(
    stage: Scenery, sort: str, edge: float, z: float, length: float, side: int, trees: list[Sprite]
) -> None:
    """Add a plot without a house: wall, fence or only plants at the sidewalk, plants and trees behind."""
    rng = stage.rng
    leaf = surroundings.leaf_colour(rng)
    if sort != "park":
        height = float(rng.uniform(1.6, 2.8) if sort == "wall" else rng.uniform(1.4, 2.2))
        draw = surroundings.wall if sort == "wall" else surroundings.fence
        texture = draw(rng, stage.colours, length, height)
        stage.panel(texture, (edge + side * 0.2, z), (edge + side * 0.2, z + length), height)
        stage.panel(texture, (edge + side * 0.2, z), (edge + side * 8, z), height, brightness=0.9)
    back = edge + side * float(rng.uniform(7, 11))
    tall = float(rng.uniform(2, 5.5))
    stage.panel(surroundings.hedge(rng, leaf, length, tall), (back, z), (back, z + length), tall, brightness=0.8)
    for _ in range(2):
        if rng.random() < 0.7:
            x = edge + side * float(rng.uniform(1.5, 6))
            stage.board(trees[int(rng.integers(len(trees)))], x, z + float(rng.uniform(0, length)))


def _sample_tree(rng: np.random.Generator) -> Sprite:
    """Sample a tree or, less often, a bush."""
    if rng.random() < 0.7:
        width, height, trunk = float(rng.uniform(2.5, 4.5)), float(rng.uniform(4.5, 8)), float(rng.uniform(1.6, 2.4))
    else:
        width, height, trunk = float(rng.uniform(1.2, 2.4)), float(rng.uniform(0.9, 1.6)), 0.0
    return surroundings.foliage(rng, surroundings.leaf_colour(rng), width, height, trunk), width, height


def close_street(stage: Scenery, profile: Profile, gap: tuple[float, float] | None) -> None:
    """Close the view at the end of the street and, past a crossing, on both sides."""
    rng = stage.rng
    far = STREET_END - 6
    leaf = surroundings.leaf_colour(rng)
    stage.panel(surroundings.hedge(rng, leaf, 60, 7), (-110, far), (110, far), 7.0, brightness=0.85)
    front = surroundings.facade(rng, stage.colours, 16, 13)
    for left in range(-80, 80, 26):
        if rng.random() < 0.6:
            stage.panel(front, (left, far - 2), (left + 18, far - 2), float(rng.uniform(7, 13)))
    if gap:
        for side, edge in ((-1, profile.walk[0]), (1, profile.walk[1])):
            height = float(rng.uniform(6, 12))
            front = surroundings.facade(rng, stage.colours, 14, height)
            for x in (edge + side * 0.5, edge + side * 14.5):
                stage.panel(front, (x, gap[1] + 0.2), (x + side * 14, gap[1] + 0.2), height)


def furnish(stage: Scenery, profile: Profile, gap: tuple[float, float] | None) -> None:
    """Add lamp posts, signs, traffic lights, bushes and trees along both kerbs."""
    rng, colours = stage.rng, stage.colours
    lamp = sprites.pole(rng, colours, float(rng.uniform(5, 7)))
    for side, kerb in ((-1, profile.road[0]), (1, profile.road[1])):
        step, first = float(rng.uniform(9, 16)), float(rng.uniform(6, 14))
        for z in np.arange(first, 100, step):
            stage.board(lamp, kerb + side * 0.5, float(z), flip=side > 0, grow=0.9)
        for z in (float(rng.uniform(9, 16)), float(rng.uniform(18, 32)), float(rng.uniform(34, 70))):
            if rng.random() < 0.62:
                stage.board(sprites.sign_post(rng, colours), kerb + side * float(rng.uniform(0.6, 1.4)), z)
        if rng.random() < 0.6:
            tree = _sample_tree(rng)
            for z in np.arange(float(rng.uniform(10, 24)), 90, float(rng.uniform(8, 18))):
                stage.board(tree, kerb + side * 0.9, float(z), flip=rng.random() < 0.5)
        if rng.random() < 0.4:  # a railing, which ends before a crossing street
            x, start, length = kerb + side * 0.25, float(rng.uniform(5, 20)), float(rng.uniform(8, 20))
            height = float(rng.uniform(0.95, 1.2))
            end = min(start + length, gap[0]) if gap else start + length
            if end > start + 2:
                stage.panel(surroundings.fence(rng, colours, end - start, height), (x, start), (x, end), height)
    _lights(stage, profile, gap)


def _lights(stage: Scenery, profile: Profile, gap: tuple[float, float] | None) -> None:
    rng, colours = stage.rng, stage.colours
    places = [gap[0] + 0.3] if gap else []
    if rng.random() < 0.5:
        places.append(float(rng.uniform(12, 24)))
    for z in places:
        mast = rng.random() < 0.5
        grow = float(rng.uniform(1.0, 1.2))
        stage.board(sprites.traffic_light(rng, colours, False), profile.road[0] - 0.5, z, grow=grow)
        sprite = sprites.traffic_light(rng, colours, mast)
        x = profile.road[1] + 0.9 - (sprite[1] / 2 * grow if mast else 0.0)
        stage.board(sprite, x, z, flip=mast, grow=grow)
