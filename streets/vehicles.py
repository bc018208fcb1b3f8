"""Sides and ends of cars, trucks, buses and trams as flat pictures; a vehicle is a box of them."""
from dataclasses import dataclass

import numpy as np

from streets.sprites import METAL, TYRE
from streets.texture import Canvas, Colour, Label, Texture, pick, scaled


@dataclass(frozen=True)
class Vehicle:
    """A vehicle as a box, sizes in metres; its side faces right."""

    length: float
    width: float
    height: float
    side: Texture
    front: Texture
    back: Texture


def make_vehicle(rng: np.random.Generator, colours: list[Colour], label: Label) -> Vehicle:
    """Draw a vehicle of class car, truck, bus or train (a tram)."""
    body = pick(rng, colours)
    draw_side, density, length, width, height = _KINDS[label]
    length, height = length * float(rng.uniform(0.92, 1.1)), height * float(rng.uniform(0.94, 1.1))
    draw_end, end_density = (_car_end, 72) if label == Label.CAR else (_tall_end, 48)
    trim = pick(rng, colours)
    side = Canvas(length, height, density)
    draw_side(rng, side, body, trim, label)
    textures = [side.texture(rng)]
    for front in (True, False):
        end = Canvas(width, height, end_density)
        draw_end(rng, end, body, trim, label, front)
        textures.append(end.texture(rng))
    return Vehicle(length, width, height, *textures)


def _glass(rng: np.random.Generator) -> Colour:
    return scaled((95, 110, 125), float(rng.uniform(0.35, 1.1)))


def _wheel(canvas: Canvas, x: float, radius: float, label: Label) -> None:
    canvas.ellipse(x, radius, radius, radius, TYRE, label)
    canvas.ellipse(x, radius, radius * 0.55, radius * 0.55, scaled(METAL, 1.1), label)


def _car_side(rng: np.random.Generator, canvas: Canvas, body: Colour, trim: Colour, label: Label) -> None:
    length, height, glass = canvas.width, canvas.height, _glass(rng)
    belt, hood = height * 0.62, height * 0.56
    cabin = length * float(rng.uniform(0.66, 0.76))
    shell = [(0.0, 0.3), (0.0, belt), (0.12, height), (cabin - 0.9, height), (cabin, belt)]
    canvas.polygon([*shell, (length, hood), (length, 0.3)], body, label)
    top, sill = height - 0.12, belt + 0.02
    canvas.polygon([(0.22, sill), (0.3, top), (cabin - 0.92, top), (cabin - 0.16, sill)], glass, label)
    for x in (cabin * 0.3, cabin * 0.62):
        canvas.box(x - 0.05, belt, x + 0.05, height - 0.08, body, label)
        canvas.box(x - 0.02, 0.35, x + 0.02, belt, scaled(body, 0.7), label)
    canvas.box(0.0, 0.28, length, 0.36, scaled(trim, 0.5), label)
    canvas.box(0.0, belt - 0.2, 0.14, belt - 0.04, (190, 40, 40), label)
    canvas.box(length - 0.2, hood - 0.2, length, hood - 0.06, (240, 235, 215), label)
    for x in (length * 0.19, length * 0.81):
        canvas.ellipse(x, 0.34, 0.4, 0.4, scaled(body, 0.4), label)
        _wheel(canvas, x, 0.33, label)


def _car_end(rng: np.random.Generator, canvas: Canvas, body: Colour, trim: Colour, label: Label, front: bool) -> None:
    width, height = canvas.width, canvas.height
    belt, mid = height * 0.62, width / 2
    for x in (0.06, width - 0.28):
        canvas.box(x, 0, x + 0.22, 0.4, TYRE, label)
    shell = [(0.0, 0.25), (0.0, belt), (0.2, height - 0.03), (width - 0.2, height - 0.03), (width, belt), (width, 0.25)]
    canvas.polygon(shell, body, label)
    glass = [(0.2, belt + 0.03), (0.32, height - 0.13), (width - 0.32, height - 0.13), (width - 0.2, belt + 0.03)]
    canvas.polygon(glass, _glass(rng), label)
    canvas.box(0.0, 0.25, width, 0.42, scaled(trim, 0.5), label)
    lamp: Colour = (245, 240, 220) if front else (200, 35, 35)
    for x in (0.05, width - 0.4):
        canvas.box(x, belt - 0.28, x + 0.35, belt - 0.08, lamp, label)
    canvas.box(mid - 0.27, 0.47, mid + 0.27, 0.59, (228, 228, 215), label)
    if front:
        canvas.box(mid - 0.42, 0.62, mid + 0.42, belt - 0.08, scaled(body, 0.35), label)


def _truck_side(rng: np.random.Generator, canvas: Canvas, body: Colour, trim: Colour, label: Label) -> None:
    length, height, cab = canvas.width, canvas.height, 1.9
    cut = length - cab - 0.25
    canvas.box(0, 0.55, length - 0.3, 0.85, scaled(METAL, 0.5), label)
    canvas.box(0, 0.85, cut, height, body, label)
    stripe = float(rng.uniform(0.35, 0.6)) * height
    canvas.box(0.3, stripe, cut - 0.3, stripe + float(rng.uniform(0.15, 0.6)), trim, label)
    for x in np.arange(0, cut, 1.2):
        canvas.box(x, 0.85, x + 0.04, height, scaled(body, 0.85), label)
    roof = min(height, 2.75)
    shell = [(length - cab, 0.5), (length - cab, roof), (length - 0.35, roof), (length, 1.5), (length, 0.5)]
    canvas.polygon(shell, trim, label)
    canvas.box(length - cab + 0.5, 1.5, length - 0.35, roof - 0.25, _glass(rng), label)
    for x in (0.9, 1.95, length - 1.0):
        _wheel(canvas, x, 0.5, label)


def _bus_side(rng: np.random.Generator, canvas: Canvas, body: Colour, trim: Colour, label: Label) -> None:
    length, height, glass = canvas.width, canvas.height, _glass(rng)
    canvas.box(0, 0.3, length, height, body, label)
    canvas.box(0, 0.3, length, 0.75, trim, label)
    count = int(length / 1.5)
    pitch = length / count
    for place in range(count):
        canvas.box(place * pitch + 0.07, 1.3, (place + 1) * pitch - 0.07, height - 0.5, glass, label)
    for x in (length - 1.5, length * 0.45):
        canvas.box(x, 0.4, x + 1.1, height - 0.45, scaled(glass, 0.8), label)
        canvas.box(x + 0.52, 0.4, x + 0.58, height - 0.45, body, label)
    for x in (length * 0.2, length * 0.78):
        _wheel(canvas, x, 0.48, label)


def _tram_side(rng: np.random.Generator, canvas: Canvas, body: Colour, trim: Colour, label: Label) -> None:
    length, height, glass = canvas.width, canvas.height, _glass(rng)
    sections = 3
    size = length / sections
    for section in range(sections):
        start, end = section * size, (section + 1) * size
        canvas.box(start, 0.12, end, height - 0.25, body, label)
        canvas.box(start, height - 0.35, end, height, scaled(METAL, 0.8), label)
        canvas.box(start, 0.12, end, 0.6, scaled(trim, 0.6), label)  # a skirt down to the rail, no wheels
        canvas.box(start + 0.4, 1.35, end - 0.4, height - 0.75, glass, label)
        for x in np.arange(start + 1.6, end - 0.5, 1.8):
            canvas.box(x - 0.06, 1.3, x + 0.06, height - 0.7, body, label)
        canvas.box(start + size / 2 - 0.7, 0.4, start + size / 2 + 0.7, height - 0.6, trim, label)
        canvas.box(start + size / 2 - 0.5, 1.1, start + size / 2 + 0.5, height - 0.8, glass, label)
        canvas.box(end - 0.25, 0.2, end + 0.25, height - 0.2, (55, 55, 58), label)


def _tall_end(rng: np.random.Generator, canvas: Canvas, body: Colour, trim: Colour, label: Label, front: bool) -> None:
    width, height = canvas.width, canvas.height
    mid, rail = width / 2, label == Label.TRAIN
    if not rail:
        for x in (0.12, width - 0.47):
            canvas.box(x, 0, x + 0.35, 0.7, TYRE, label)
    face = trim if label == Label.TRUCK and front else body
    canvas.box(0, 0.12 if rail else 0.4, width, height, face, label)
    canvas.box(0, 0.12 if rail else 0.4, width, 0.8, scaled(trim, 0.6), label)
    if label == Label.TRUCK and not front:
        canvas.box(mid - 0.03, 0.9, mid + 0.03, height - 0.1, scaled(body, 0.6), label)
        canvas.box(0.1, 0.9, width - 0.1, 0.98, scaled(body, 0.6), label)
    else:
        low, top = (1.25, height - 0.55) if front or rail else (1.7, height - 0.5)
        canvas.box(0.15, low, width - 0.15, top, _glass(rng), label)
    if label in (Label.BUS, Label.TRAIN):
        canvas.box(mid - 0.8, height - 0.4, mid + 0.8, height - 0.12, (35, 35, 30), label)
        canvas.box(mid - 0.6, height - 0.33, mid + 0.5, height - 0.2, (240, 170, 60), label)
    if rail:
        canvas.ellipse(mid, 0.95, 0.16, 0.16, (245, 240, 220), label)
        canvas.polygon([(0.0, height), (0.35, height), (0.0, height - 0.6)], scaled(METAL, 0.7), label)
        canvas.polygon([(width, height), (width - 0.35, height), (width, height - 0.6)], scaled(METAL, 0.7), label)
    lamp: Colour = (245, 240, 220) if front else (200, 35, 35)
    for x in (0.1, width - 0.42):
        canvas.box(x, 0.82, x + 0.32, 1.02, lamp, label)


_KINDS = {  # class -> what draws its side, texels per metre there, length, width and height
    Label.CAR: (_car_side, 64, 4.3, 1.8, 1.5), Label.TRUCK: (_truck_side, 36, 8.0, 2.4, 3.2),
    Label.BUS: (_bus_side, 36, 11.0, 2.5, 3.0), Label.TRAIN: (_tram_side, 28, 22.0, 2.5, 3.5),
}
