"""Planar surfaces in the world, in metres: x to the right, y down (the road is y = 0), z along the street."""
from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from streets.texture import Sprite, Texture, Vector
from streets.vehicles import Vehicle

Vector3 = tuple[float, float, float]


class Kind(Enum):
    """How a surface is drawn, in drawing order."""

    SKY = 0  # infinitely far: placed relative to the camera
    GROUND = 1
    SHADE = 2  # darkens the ground, has no class or depth of its own
    UPRIGHT = 3


@dataclass(frozen=True, eq=False)
class Surface:
    """A textured parallelogram: texture point (s, t) in [0, 1] x [0, 1] lies at origin + s * along + t * down.

    origin, along, down: metres, at time 0; texture row 0 lies at t = 0. velocity: metres a second. texture:
    None for a shade. brightness: factor on the colour, 1 in full light; for a shade, the light that remains.
    """

    kind: Kind
    origin: Vector3
    along: Vector3
    down: Vector3
    velocity: Vector3
    texture: Texture | None
    brightness: float = 1.0


@dataclass
class Scenery:
    """The surfaces of a world that is being built."""

    rng: np.random.Generator
    colours: list[tuple[float, float, float]]
    surfaces: list[Surface] = field(default_factory=list)

    def add(
        self, kind: Kind, texture: Texture | None, origin: Vector3, along: Vector3, down: Vector3,
        velocity: Vector = (0.0, 0.0), brightness: float = 1.0,
    ) -> None:
        """Add a surface; velocity is (x, z), metres a second."""
        self.surfaces.append(Surface(kind, origin, along, down, (velocity[0], 0.0, velocity[1]), texture, brightness))

    def board(
        self, sprite: Sprite, x: float, z: float, velocity: Vector = (0.0, 0.0), flip: bool = False, grow: float = 1.0
    ) -> None:
        """Add a sprite and its shadow, upright across the street, its bottom centre at (x, z) on the ground."""
        texture, width, height = sprite[0], sprite[1] * grow, sprite[2] * grow
        start, along = (x + width / 2, -width) if flip else (x - width / 2, width)
        self.add(Kind.UPRIGHT, texture, (start, -height, z), (along, 0, 0), (0, height, 0), velocity)
        self.shade(x - width * 0.4, z - 0.3, width * 0.9, 0.7, velocity)

    def panel(
        self, texture: Texture, start: Vector, end: Vector, height: float,
        velocity: Vector = (0.0, 0.0), brightness: float = 1.0,
    ) -> None:
        """Add an upright texture on the ground line from start to end, both (x, z)."""
        along = (end[0] - start[0], 0.0, end[1] - start[1])
        self.add(Kind.UPRIGHT, texture, (start[0], -height, start[1]), along, (0, height, 0), velocity, brightness)

    def shade(
        self, x: float, z: float, width: float, depth: float, velocity: Vector = (0.0, 0.0), brightness: float = 0.6
    ) -> None:
        """Add a shade on the ground from (x, z), `width` metres across and `depth` along the street."""
        self.add(Kind.SHADE, None, (x, 0, z), (width, 0, 0), (0, 0, depth), velocity, brightness)

    def vehicle_along(self, vehicle: Vehicle, x: float, z: float, heading: int, speed: float) -> None:
        """Add a vehicle that points up the street (heading 1) or towards the camera (-1).

        x: of its centre line. z: of its near end. speed: metres a second in its heading.
        """
        velocity, half, far = (0.0, heading * speed), vehicle.width / 2, z + vehicle.length
        tail, nose = (z, far) if heading > 0 else (far, z)
        # A vehicle off to one side shows the flank that faces the camera; one ahead may show either.
        flanks = (-half, half) if abs(x) < half + 0.5 else ((-half,) if x > 0 else (half,))
        for flank in flanks:
            self.panel(vehicle.side, (x + flank, tail), (x + flank, nose), vehicle.height, velocity, 0.8)
        end = vehicle.back if heading > 0 else vehicle.front
        self.panel(end, (x - half, z), (x + half, z), vehicle.height, velocity)
        self.shade(x - half - 0.15, z - 0.3, vehicle.width + 0.3, vehicle.length + 0.5, velocity, 0.45)

    def vehicle_across(self, vehicle: Vehicle, x: float, z: float, heading: int, speed: float) -> None:
        """Add a vehicle that crosses the street at depth z, centred at x, to the right (heading 1) or left (-1)."""
        velocity, half = (heading * speed, 0.0), heading * vehicle.length / 2
        self.panel(vehicle.side, (x - half, z), (x + half, z), vehicle.height, velocity)
        inner = x - np.sign(x) * vehicle.length / 2
        end = vehicle.front if heading * x < 0 else vehicle.back
        self.panel(end, (inner, z), (inner, z + vehicle.width), vehicle.height, velocity, 0.75)
        self.shade(x - abs(half), z - 0.3, vehicle.length, vehicle.width + 0.5, velocity, 0.45)
