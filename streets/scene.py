"""Sample one world: the street, what is in it, the camera's path and the light."""
from dataclasses import dataclass

import numpy as np

from streets import street, surroundings, traffic
from streets.surface import Kind, Scenery, Surface
from streets.texture import palette

FRAME_RATE = 17.0  # frames per second, as in Cityscapes
CAMERA_HEIGHT = 1.3  # metres


@dataclass(frozen=True)
class Wave:
    """A slow swing: size * sin(2 pi (t / period + phase)), t and period in seconds."""

    size: float
    period: float
    phase: float

    def at(self, time: np.ndarray | float) -> np.ndarray:
        """Return the swing at `time`, seconds."""
        return self.size * np.sin(2 * np.pi * (np.asarray(time) / self.period + self.phase))


@dataclass(frozen=True)
class World:
    """A sampled scene."""

    surfaces: list[Surface]  # in a fixed order
    speed: float  # of the camera along its heading, metres a second
    view_angle: float  # horizontal field of view, radians
    yaw: Wave  # of the camera, radians
    pitch: Wave
    light: tuple[Wave, Wave, Wave]  # brightness of red, green and blue around 1
    haze: np.ndarray  # (3,) RGB colour of distant air
    haze_range: float  # metres over which a colour fades to 37 %
    grain: float  # deviation of the sensor noise, 0..255 scale

    def camera(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the pose at a frame: rotation (3,3) from world to camera axes, and position (3,) in metres."""
        steps = (np.arange(frame) + 0.5) / FRAME_RATE
        headings = self.yaw.at(steps)
        right, forward = (wave(headings).sum() * self.speed / FRAME_RATE for wave in (np.sin, np.cos))
        position = np.array([right, -CAMERA_HEIGHT, forward])
        yaw, pitch = float(self.yaw.at(frame / FRAME_RATE)), float(self.pitch.at(frame / FRAME_RATE))
        turn = np.array([[np.cos(yaw), 0, -np.sin(yaw)], [0, 1, 0], [np.sin(yaw), 0, np.cos(yaw)]])
        nod = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
        return nod @ turn, position


def sample_world(rng: np.random.Generator) -> World:
    """Sample a world; it does not depend on the picture size or the length of the sequence."""
    stage = Scenery(rng, palette(rng))
    speed = float(rng.uniform(5.5, 10))
    with_tram = bool(rng.random() < 0.42)
    profile = street.sample_profile(rng, with_tram)
    tile = int(rng.integers(2, 6)) if rng.random() < 0.55 else None
    gap = None
    if tile is not None:
        near = street.STREET_START + tile * surroundings.TILE_LENGTH
        gap = (near + 3.0, near + 10.7)
    # The sky's horizon row lies at y = 0 relative to the camera; below it the ground covers the view.
    stage.add(Kind.SKY, surroundings.sky(rng), (-130e3, -70e3, 100e3), (260e3, 0, 0), (0, 76e3, 0))
    street.lay_ground(stage, profile, tile)
    for side in (-1, 1):
        street.build_side(stage, profile, side, gap)
    street.close_street(stage, profile, gap)
    street.furnish(stage, profile, gap)
    traffic.lead(stage, speed)
    traffic.oncoming(stage)
    if with_tram:
        traffic.tram(stage)
    if gap:
        traffic.crossing(stage, gap)
    traffic.park(stage, profile)
    traffic.cyclists(stage)
    traffic.walkers(stage, profile)
    size = float(rng.uniform(0.003, 0.026))
    return World(
        surfaces=stage.surfaces, speed=speed, view_angle=float(np.radians(rng.uniform(52, 58))),
        yaw=Wave(size, float(rng.uniform(3.0, 6.0)), float(rng.random())),
        pitch=Wave(float(rng.uniform(0.0003, 0.0015)), float(rng.uniform(0.5, 1.0)), float(rng.random())),
        light=_sample_light(rng), haze=rng.uniform(150, 215, 3), haze_range=float(rng.uniform(120, 400)),
        grain=float(rng.uniform(2.0, 5.0)),
    )


def _sample_light(rng: np.random.Generator) -> tuple[Wave, Wave, Wave]:
    """Sample the brightness swings of red, green and blue: mostly together, with a little change of tint."""
    period, phase, size = float(rng.uniform(1.5, 5)), float(rng.random()), float(rng.uniform(0.05, 0.2))
    red, green, blue = (Wave(size * float(rng.uniform(0.8, 1.2)), period, phase) for _ in range(3))
    return red, green, blue
