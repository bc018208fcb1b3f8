"""Flat pictures of people, two-wheelers and street furniture, with a class for each texel.

A sprite is a texture, its width and its height in metres.
"""
import numpy as np

from streets.texture import Canvas, Colour, Label, Sprite, Vector, pick, scaled

TYRE: Colour = (38, 38, 40)
METAL: Colour = (120, 122, 125)


def _skin(rng: np.random.Generator) -> Colour:
    return scaled((215, 170, 140), float(rng.uniform(0.4, 1.08)))


def person(rng: np.random.Generator, colours: list[Colour]) -> Sprite:
    """Draw a walker, seen at any angle."""
    height, label = float(rng.uniform(1.6, 1.95)), Label.PERSON
    canvas = Canvas(0.95, height, 80)
    top, trousers, skin = pick(rng, colours), pick(rng, colours), _skin(rng)
    mid, hip, shoulder = canvas.width / 2, height * 0.5, height * 0.82
    stride = float(rng.uniform(0.06, 0.26))
    build = float(rng.uniform(0.18, 0.25))
    for side in (-1, 1):
        foot = (mid + side * stride, 0.06)
        canvas.bar((mid + side * 0.08, hip), foot, 0.17, scaled(trousers, 1 - 0.12 * side), label)
        canvas.bar(foot, (foot[0] + 0.09, 0.05), 0.1, TYRE, label)
    swing = float(rng.uniform(0.0, 0.16))
    for side in (-1, 1):
        hand = (mid + side * (build + swing), height * 0.46)
        canvas.bar((mid + side * (build - 0.03), shoulder - 0.04), hand, 0.12, scaled(top, 0.85), label)
        canvas.ellipse(*hand, 0.06, 0.06, skin, label)
    torso = [(mid - build, shoulder), (mid - 0.17, hip - 0.06), (mid + 0.17, hip - 0.06), (mid + build, shoulder)]
    canvas.polygon(torso, top, label)
    canvas.ellipse(mid, shoulder, build, 0.07, top, label)
    if rng.random() < 0.4:
        canvas.box(mid - 0.16, hip + 0.1, mid + 0.16, shoulder - 0.02, pick(rng, colours), label)
    canvas.bar((mid, shoulder), (mid, height - 0.2), 0.12, skin, label)
    canvas.ellipse(mid, height - 0.14, 0.115, 0.14, skin, label)
    canvas.ellipse(mid - 0.02, height - 0.08, 0.12, 0.085, scaled((90, 65, 45), float(rng.uniform(0.3, 1.6))), label)
    return canvas.sprite(rng)


def bicycle_side(rng: np.random.Generator, colours: list[Colour], ridden: bool) -> Sprite:
    """Draw a bicycle that faces right, with or without a rider."""
    canvas = Canvas(1.9, 1.85 if ridden else 1.15)
    frame, label = pick(rng, colours), Label.BICYCLE
    back, front, radius = (0.4, 0.37), (1.5, 0.37), 0.36
    for x, y in (back, front):
        canvas.ellipse(x, y, radius, radius, TYRE, label)
        # The spokes blur into a disc; it counts as bicycle, as in hand-made labels.
        canvas.ellipse(x, y, radius - 0.06, radius - 0.06, scaled(METAL, 0.9), label)
        canvas.ellipse(x, y, 0.06, 0.06, TYRE, label)
    saddle, bars, pedals = (0.72, 0.95), (1.32, 1.02), (0.88, 0.36)
    for start, end in ((back, saddle), (back, pedals), (pedals, saddle), (pedals, bars), (saddle, bars), (front, bars)):
        canvas.bar(start, end, 0.075, frame, label)
    canvas.bar((0.6, 0.98), (0.86, 0.98), 0.09, TYRE, label)
    canvas.bar(bars, (1.22, 1.1), 0.07, TYRE, label)
    if ridden:
        _side_rider(rng, canvas, colours, saddle, pedals, (1.24, 1.1))
    return canvas.sprite(rng)


def motorcycle_side(rng: np.random.Generator, colours: list[Colour], ridden: bool) -> Sprite:
    """Draw a motorcycle that faces right, with or without a rider."""
    canvas = Canvas(2.2, 1.75 if ridden else 1.25)
    body, label = pick(rng, colours), Label.MOTORCYCLE
    for x in (0.38, 1.8):
        canvas.ellipse(x, 0.34, 0.34, 0.34, TYRE, label)
        canvas.ellipse(x, 0.34, 0.17, 0.17, METAL, label)
    canvas.polygon([(0.15, 0.78), (0.95, 0.72), (1.75, 0.9), (1.55, 0.35), (0.7, 0.28), (0.45, 0.5)], body, label)
    canvas.ellipse(1.02, 0.42, 0.27, 0.2, scaled(METAL, 0.6), label)
    canvas.ellipse(1.22, 0.88, 0.3, 0.16, scaled(body, 1.15), label)
    canvas.bar((0.2, 0.84), (0.95, 0.8), 0.14, TYRE, label)
    canvas.bar((1.8, 0.34), (1.52, 1.05), 0.1, METAL, label)
    canvas.bar((1.52, 1.08), (1.36, 1.12), 0.07, TYRE, label)
    canvas.polygon([(1.5, 0.85), (1.8, 0.85), (1.62, 1.22), (1.5, 1.2)], scaled(body, 0.9), label)
    if ridden:
        _side_rider(rng, canvas, colours, (0.75, 0.88), (1.05, 0.35), (1.36, 1.12))
    return canvas.sprite(rng)


def _side_rider(
    rng: np.random.Generator, canvas: Canvas, colours: list[Colour], saddle: Vector, feet: Vector, hands: Vector
) -> None:
    top, trousers, label = pick(rng, colours), pick(rng, colours), Label.RIDER
    x, y = saddle
    knee, neck = (x + 0.42, y - 0.06), (x + 0.3, y + 0.52)
    canvas.bar((x, y + 0.06), knee, 0.2, trousers, label)
    canvas.bar(knee, feet, 0.15, trousers, label)
    canvas.bar((x + 0.02, y + 0.1), neck, 0.3, top, label)
    canvas.bar((neck[0], neck[1] - 0.06), hands, 0.12, scaled(top, 0.85), label)
    canvas.ellipse(neck[0] + 0.1, neck[1] + 0.18, 0.12, 0.14, _skin(rng), label)
    canvas.ellipse(neck[0] + 0.08, neck[1] + 0.22, 0.14, 0.12, pick(rng, colours), label)


def two_wheeler_end(rng: np.random.Generator, colours: list[Colour], label: Label) -> Sprite:
    """Draw a rider on a bicycle or motorcycle, seen from the front or back."""
    heavy = label == Label.MOTORCYCLE
    canvas = Canvas(0.95, 1.75, 80)
    mid, top, trousers, body = canvas.width / 2, pick(rng, colours), pick(rng, colours), pick(rng, colours)
    for side in (-1, 1):
        canvas.bar((mid + side * 0.14, 0.95), (mid + side * 0.2, 0.42), 0.15, trousers, Label.RIDER)
        canvas.bar((mid + side * 0.24, 1.36), (mid + side * 0.36, 1.02), 0.12, scaled(top, 0.85), Label.RIDER)
    canvas.polygon([(mid - 0.25, 1.4), (mid - 0.19, 0.88), (mid + 0.19, 0.88), (mid + 0.25, 1.4)], top, Label.RIDER)
    canvas.ellipse(mid, 1.4, 0.24, 0.07, top, Label.RIDER)
    canvas.ellipse(mid, 1.58, 0.12, 0.15, _skin(rng), Label.RIDER)
    canvas.ellipse(mid, 1.63, 0.135, 0.11, pick(rng, colours), Label.RIDER)
    tyre = 0.16 if heavy else 0.1
    canvas.box(mid - tyre / 2, 0, mid + tyre / 2, 0.72, TYRE, label)
    canvas.bar((mid - 0.36, 1.02), (mid + 0.36, 1.02), 0.08, METAL, label)
    if heavy:
        canvas.polygon([(mid - 0.2, 0.95), (mid - 0.26, 0.5), (mid + 0.26, 0.5), (mid + 0.2, 0.95)], body, label)
        canvas.ellipse(mid, 0.78, 0.1, 0.1, (240, 225, 190), label)
    else:
        canvas.bar((mid, 0.72), (mid, 1.0), 0.09, body, label)
        canvas.box(mid - 0.13, 0.5, mid + 0.13, 0.78, body, label)
    return canvas.sprite(rng)


def pole(rng: np.random.Generator, colours: list[Colour], height: float) -> Sprite:
    """Draw a lamp post with its arm; the post stands in the middle."""
    width, thick = 1.6, float(rng.uniform(0.2, 0.34))
    canvas = Canvas(width, height, 48)
    colour = pick(rng, colours)
    canvas.box(width / 2 - thick / 2, 0, width / 2 + thick / 2, height, colour, Label.POLE)
    canvas.box(width / 2 - thick * 0.75, 0, width / 2 + thick * 0.75, 0.7, scaled(colour, 0.8), Label.POLE)
    canvas.bar((width / 2, height - 0.12), (width - 0.12, height - 0.12), 0.14, colour, Label.POLE)
    return canvas.sprite(rng)


def sign_post(rng: np.random.Generator, colours: list[Colour]) -> Sprite:
    """Draw one or two traffic signs on a pole."""
    width, height = 1.1, float(rng.uniform(2.7, 3.3))
    canvas = Canvas(width, height)
    mid, metal, face = width / 2, pick(rng, colours), pick(rng, colours)
    canvas.box(mid - 0.07, 0, mid + 0.07, height - 0.1, metal, Label.POLE)
    edge = [(200, 40, 40), (40, 70, 180), (235, 235, 235), face][int(rng.integers(4))]
    for place, shape in enumerate(rng.permutation(3)[: int(rng.integers(1, 3))]):
        y = height - 0.52 - 0.98 * place
        for size, colour in ((0.5, edge), (0.36, (235, 232, 225)), (0.16, scaled(face, 0.7))):
            if shape == 0:
                canvas.ellipse(mid, y, size, size, colour, Label.SIGN)
            elif shape == 1:
                low = y - size * 0.8
                canvas.polygon([(mid - size, low), (mid + size, low), (mid, y + size)], colour, Label.SIGN)
            else:
                canvas.box(mid - size, y - size * 0.9, mid + size, y + size * 0.9, colour, Label.SIGN)
    return canvas.sprite(rng)


def traffic_light(rng: np.random.Generator, colours: list[Colour], mast: bool) -> Sprite:
    """Draw a traffic light, with more signal heads on an arm if `mast`."""
    width, height = (4.2, 5.4) if mast else (1.0, 3.5)
    canvas = Canvas(width, height, 48)
    metal, foot = pick(rng, colours), 0.5
    canvas.box(foot - 0.1, 0, foot + 0.1, height - 0.1, metal, Label.POLE)
    heads = [(foot, 2.3)]
    if mast:
        canvas.box(foot, height - 0.35, width - 0.2, height - 0.19, metal, Label.POLE)
        heads += [(width - 0.45, height - 1.35), (width - 2.1, height - 1.35)]
    lit = int(rng.integers(3))
    case = scaled((50, 50, 48), float(rng.uniform(0.6, 1.8)))
    for x, y in heads:
        canvas.box(x - 0.26, y, x + 0.26, y + 1.2, case, Label.LIGHT)
        for place, lamp in enumerate(((70, 220, 130), (250, 190, 60), (240, 60, 50))):
            colour = lamp if place == lit else scaled(lamp, 0.3)
            canvas.ellipse(x, y + 0.22 + 0.38 * place, 0.16, 0.16, colour, Label.LIGHT)
    return canvas.sprite(rng)
