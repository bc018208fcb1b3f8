"""What moves or is parked in a street: vehicles, two-wheelers and people."""
import numpy as np

from streets import sprites
from streets.street import LANE
from streets.surface import Scenery
from streets.surroundings import Profile
from streets.texture import Label
from streets.vehicles import make_vehicle

_MIX = ((Label.CAR, 0.53), (Label.TRUCK, 0.2), (Label.BUS, 0.27))


def _choose(rng: np.random.Generator) -> Label:
    return _MIX[int(rng.choice(len(_MIX), p=[share for _, share in _MIX]))][0]


def lead(stage: Scenery, ego_speed: float) -> None:
    """Add something, or nothing, ahead in the camera's own lane, at nearly the camera's speed."""
    rng = stage.rng
    draw = rng.random()
    speed = ego_speed + float(rng.uniform(-2.5, 1.5))
    if draw < 0.5:
        vehicle = make_vehicle(rng, stage.colours, _choose(rng))
        stage.vehicle_along(vehicle, float(rng.uniform(-0.3, 0.3)), float(rng.uniform(13, 26)), 1, speed)
    elif draw < 0.8:
        label = Label.MOTORCYCLE if rng.random() < 0.6 else Label.BICYCLE
        sprite = sprites.two_wheeler_end(rng, stage.colours, label)
        stage.board(sprite, float(rng.uniform(-0.6, 0.8)), float(rng.uniform(9, 18)), (0.0, speed), grow=1.08)


def oncoming(stage: Scenery) -> None:
    """Add vehicles and riders that come towards the camera in the next lane."""
    rng = stage.rng
    z = float(rng.uniform(9, 24))
    while z < 85:
        speed = float(rng.uniform(6, 12))
        draw = rng.random()
        if draw < 0.68:
            vehicle = make_vehicle(rng, stage.colours, _choose(rng))
            stage.vehicle_along(vehicle, -LANE + float(rng.uniform(-0.2, 0.3)), z, -1, speed)
            z += vehicle.length
        else:
            label = Label.MOTORCYCLE if draw < 0.86 else Label.BICYCLE
            sprite = sprites.two_wheeler_end(rng, stage.colours, label)
            stage.board(sprite, -LANE + float(rng.uniform(-0.8, 0.8)), z, (0.0, -speed), grow=1.08)
        z += float(rng.uniform(9, 26))


def tram(stage: Scenery) -> None:
    """Add one or two trams on the track left of the oncoming lane."""
    rng = stage.rng
    vehicle = make_vehicle(rng, stage.colours, Label.TRAIN)
    z = float(rng.uniform(8, 26))
    heading = 1 if rng.random() < 0.5 else -1
    stage.vehicle_along(vehicle, -2 * LANE, z, heading, float(rng.uniform(4, 10)))
    if rng.random() < 0.5:
        start = z + vehicle.length + float(rng.uniform(6, 20))
        stage.vehicle_along(vehicle, -2 * LANE, start, heading, float(rng.uniform(4, 8)))


def crossing(stage: Scenery, gap: tuple[float, float]) -> None:
    """Add traffic on a crossing street, near lane to the right, far lane to the left."""
    rng = stage.rng
    for heading, z in ((1, gap[0] + 1.2), (-1, gap[1] - 3.0)):
        x = -heading * float(rng.uniform(2, 14))
        for _ in range(2):
            draw = rng.random()
            if draw < 0.75:
                vehicle = make_vehicle(rng, stage.colours, Label.TRAIN if draw < 0.2 else _choose(rng))
                stage.vehicle_across(vehicle, x - heading * vehicle.length / 2, z, heading, float(rng.uniform(4, 9)))
                x -= heading * (vehicle.length + float(rng.uniform(3, 8)))
            else:
                draw_side = sprites.motorcycle_side if draw < 0.88 else sprites.bicycle_side
                speed = heading * float(rng.uniform(3.5, 7))
                stage.board(draw_side(rng, stage.colours, True), x, z, (speed, 0.0), flip=heading < 0)
                x -= heading * float(rng.uniform(3, 7))


def park(stage: Scenery, profile: Profile) -> None:
    """Add parked vehicles in the parking lanes, and some rows of bicycles or motorcycles at the kerb."""
    rng = stage.rng
    for side, kerb, lane in ((-1, profile.road[0], profile.parking[0]), (1, profile.road[1], profile.parking[1])):
        z = float(rng.uniform(3, 18))
        while z < 70:
            draw = rng.random()
            if draw < 0.5 and lane:
                vehicle = make_vehicle(rng, stage.colours, Label.CAR if rng.random() < 0.86 else Label.TRUCK)
                stage.vehicle_along(vehicle, kerb - side * 1.15, z, side, 0.0)
                z += vehicle.length + float(rng.uniform(1.0, 4.0))
            elif draw > 0.76:
                draw_side = sprites.bicycle_side if draw < 0.88 else sprites.motorcycle_side
                for _ in range(int(rng.integers(2, 5))):
                    x = kerb + side * float(rng.uniform(0.9, 1.4)) * (-1 if lane else 1)
                    stage.board(draw_side(rng, stage.colours, False), x, z, flip=rng.random() < 0.5, grow=1.05)
                    z += float(rng.uniform(0.9, 2.0))
                z += 2.0
            else:
                z += float(rng.uniform(4, 12))


def cyclists(stage: Scenery) -> None:
    """Add riders near the kerbs, seen from behind on the right and from the front on the left."""
    rng = stage.rng
    for _ in range(int(rng.integers(1, 4))):
        right = rng.random() < 0.65
        label = Label.BICYCLE if rng.random() < 0.55 else Label.MOTORCYCLE
        sprite = sprites.two_wheeler_end(rng, stage.colours, label)
        speed = float(rng.uniform(3.5, 8))
        x = LANE / 2 - 0.15 if right else -LANE * 1.5 + 0.2
        stage.board(sprite, x, float(rng.uniform(8, 24)), (0.0, speed if right else -speed), grow=1.08)


def walkers(stage: Scenery, profile: Profile) -> None:
    """Add people on both sidewalks, and people and riders who cross the road in front of the camera."""
    rng = stage.rng
    cast = [sprites.person(rng, stage.colours) for _ in range(9)]
    for edges in ((profile.walk[0], profile.verge[0]), (profile.verge[1], profile.walk[1])):
        for _ in range(int(rng.integers(5, 12))):
            sprite = cast[int(rng.integers(len(cast)))]
            z = 6 + 44 * float(rng.random()) ** 1.7
            velocity = (float(rng.uniform(-0.3, 0.3)), float(rng.choice((-1, 1))) * float(rng.uniform(0.4, 1.7)))
            stage.board(sprite, float(rng.uniform(edges[0] + 0.4, edges[1] - 0.4)), z, velocity, rng.random() < 0.5)
    for _ in range(int(rng.integers(0, 4))):
        heading = int(rng.choice((-1, 1)))
        x = -heading * float(rng.uniform(-1.0, 6.0))
        z = float(rng.uniform(17, 36))
        if rng.random() < 0.65:
            sprite = cast[int(rng.integers(len(cast)))]
            speed = float(rng.uniform(0.9, 2.2))
        else:
            draw_side = sprites.bicycle_side if rng.random() < 0.6 else sprites.motorcycle_side
            sprite, speed = draw_side(rng, stage.colours, True), float(rng.uniform(2.5, 5))
        stage.board(sprite, x, z, (heading * speed, 0.0), heading < 0)
