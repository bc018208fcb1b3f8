"""Labels of another kind than the data set's: trainIds, the ids of other data, only void."""
import cv2
import numpy as np
import pytest

from config.camvid import CAMVID
from config.cityscapes import CITYSCAPES
from config.errors import UserError
from config.schema import DatasetConfig
from config.synthetic import SYNTHETIC
from dataloaders.cache import PictureCache
from dataloaders.clips import LabelledFrame
from dataloaders.label_check import check_frames, check_labels, wrong_kind
from dataloaders.reader import Reader

DOOR = "Data"


def counted(*ids: int) -> np.ndarray:
    return np.bincount(ids, minlength=256)


def frames(folder, *labels) -> list[LabelledFrame]:
    """Labelled frames whose labels hold these ids; bytes stand for a file's content."""
    found = []
    for number, ids in enumerate(labels):
        path = folder / f"{number}.png"
        if isinstance(ids, bytes):
            path.write_bytes(ids)
        else:
            cv2.imwrite(str(path), np.array([ids], np.uint8))
        found.append(LabelledFrame(str(number), (), path, ""))
    return found


@pytest.mark.parametrize(
    "config, ids",
    [(CITYSCAPES, (0, 1, 3, 7, 11, 23)), (CITYSCAPES, (7,)), (CITYSCAPES, (7, 8, 255)), (SYNTHETIC, (0, 7, 11)),
     (CAMVID, (3, 11)), (CAMVID, (0, 1, 2, 255))],
)
def test_labels_of_the_right_kind_are_accepted(config, ids):
    assert wrong_kind(counted(*ids), config) == ""


@pytest.mark.parametrize(
    "config, ids, message",
    [
        (CITYSCAPES, (0, 3, 255), "holds no id of a class of cityscapes_2k, only 0, 3, 255"),
        (CAMVID, (255,), "holds no id of a class of camvid, only 255"),
        (CAMVID, tuple(range(100, 120)),
         "holds no id of a class of camvid, only 100, 101, 102, 103, 104, 105, 106, 107, ..."),
        (CITYSCAPES, (0, 1, 2, 8, 10, 13, 255), "looks like trainIds (0 to 18, 255); labelIds are required"),
        (SYNTHETIC, (0, 7, 18, 255), "looks like trainIds (0 to 18, 255); labelIds are required"),
    ],
)
def test_labels_of_another_kind_are_recognised(config, ids, message):
    assert wrong_kind(counted(*ids), config) == message


@pytest.mark.tried(
    DOOR, "split whose labels are all of another kind: trainIds, other data's ids, void", "refused in one line"
)
@pytest.mark.parametrize(
    "labels, message",
    [([(0, 1, 8, 255), (2, 255)], "looks like trainIds"), ([(0, 255), (3,)], "holds no id"),
     ([(99, 98)], "holds no id"),
     ([b"no picture", (255, 255)], "holds no id")],
)
def test_split_of_another_kind_is_refused(tmp_path, labels, message):
    told = rf"\.png: {message}.*; no label of the split is better; count their ids with --check 1"
    with pytest.raises(UserError, match=told) as caught:
        check_labels(frames(tmp_path, *labels), Reader(CITYSCAPES), "train")
    assert "\n" not in str(caught.value)


@pytest.mark.tried(
    DOOR, "split with some labels of another kind, or that cannot be read", "accepted; each is reported when it is read"
)
@pytest.mark.parametrize("labels", [[], [(7,)], [(0, 255), (7, 23)], [b"no picture"], [b"", (0,), (11,)]])
def test_one_good_label_is_enough(tmp_path, labels):
    check_labels(frames(tmp_path, *labels), Reader(CITYSCAPES), "train")


def described(*names: str, ids=None, **more) -> DatasetConfig:
    """A data set of the user's own."""
    count = range(len(names))
    return DatasetConfig("mine", names, tuple(ids or count), ((1, 2, 3),) * len(names), (1.0,) * len(names), "", **more)


STREET = ("road", "sidewalk", "building", "vegetation", "car")
REAL_LABELS = (0, 1, 3, 4, 7, 7, 7, 8, 11, 11, 20, 21, 21, 23, 26, 33)
REAL_TRAIN_IDS = (0, 0, 0, 0, 1, 2, 2, 2, 5, 7, 8, 8, 10, 11, 13)


@pytest.mark.tried(
    "Reports of users", "a split whose first labels follow another convention than the description",
    "status 2, naming it and the description that would be right",
)
@pytest.mark.parametrize("config, ids, message", [
    (described("rest", "target"), (0, 0, 0, 255), "masks of 0 and 255, .*; right would be target: {id: 255}"),
    (described("rest", "target", ids=(1, 2)), (0, 255), "masks of 0 and 255, .*rest: {id: 255}"),
    (described("a", "b", "c"), (1, 2, 3, 3), "ids that start at 1, .* be a: {id: 1}, b: {id: 2}, c: {id: 3}"),
    (described("rest", "target"), (*[0] * 999, *[255] * 999, 1), "% .* have no class, by ids 255, and all others are"),
    (described(*STREET, ids=(0, 1, 2, 8, 13)), (23, 23, 26, 33), "labelIds of Cityscapes .*road: {id: 7}"),
    (CAMVID, tuple(range(1, 12)), "ids that start at 1, .* right would be sky: {id: 1}"),
    (CITYSCAPES, (*REAL_TRAIN_IDS, 19), "trainIds of Cityscapes .* right would be road: {id: 0}, sidewalk: {id: 1}"),
    (CITYSCAPES, REAL_TRAIN_IDS, "trainIds of Cityscapes"),
    (described(*STREET, ids=(7, 8, 11, 21, 26)), (*REAL_TRAIN_IDS, 19), "be road: {id: 0}, .*car: {id: 13}"),
    (described(*STREET, ids=(0, 1, 2, 8, 13)), REAL_LABELS, "labelIds of Cityscapes .*road: {id: 7}, .*car: {id: 26}"),
    (CITYSCAPES, (0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10), "trainIds of Cityscapes .*, or the ids of another data set"),
    (CAMVID, (*REAL_TRAIN_IDS, 14, 15, 16), "trainIds of Cityscapes"), (CAMVID, REAL_LABELS, "labelIds of Cityscapes"),
    (described("rest", "target"), (*[99] * 96, 0, 0, 0, 1), r"96.0 % of the pixels .* have no class, by ids 99"),
    (described("rest", "target"), (*[0] * 98, 7, 9), "2.0 % .* have no class, by ids 7, 9, and all others are rest"),
])
def test_other_conventions_are_refused(tmp_path, config, ids, message):
    with pytest.raises(UserError, match=rf"\.png: .*{message}"):
        check_labels(frames(tmp_path, ids, ids), Reader(config), "val")


@pytest.mark.parametrize("config, ids", [
    (CITYSCAPES, REAL_LABELS), (SYNTHETIC, REAL_LABELS), (CAMVID, tuple(range(12))), (CITYSCAPES, (7,)),
    (described(*STREET, ids=(0, 1, 2, 8, 13)), (*REAL_TRAIN_IDS, 255)),
    (described("rest", "target"), (*[0] * 199, 7)),  # a stray id
    (described("rest", "target", void=(255,)), (0, 0, 0, 255)),
    (described("rest", "target", void=(9,)), (*[9] * 99, 0)),  # sparse, and said to be
    (described("a", "b", "c", void=(3,)), (0, 1, 2, 3)), (described("a", "b", "c"), (*[0, 1, 2] * 99, 3)),
])
def test_right_labels_are_accepted_and_their_share_is_logged(tmp_path, caplog, config, ids):
    caplog.set_level("INFO")
    check_labels(frames(tmp_path, ids), Reader(config), "val")
    known = 100 * np.mean([i in config.class_of for i in ids])
    assert f"val: {known:.1f} % of the pixels of the first 1 labels have a class" in caplog.text


def test_one_id_too_many_may_be_void_or_a_class(tmp_path, caplog):
    check_labels(frames(tmp_path, (0, 1, 2, 3)), Reader(described("a", "b", "c")), "train")
    assert "by ids 3; declare them" in caplog.text and "do ids start at 1, and 0 is void?" in caplog.text


def test_undeclared_ids_are_named(tmp_path, caplog):
    check_labels(frames(tmp_path, (0, 1, 1, 77)), Reader(described("a", "b")), "train")
    assert "25.0 % of the pixels of the first 1 labels of train have no class, by ids 77; declare them" in caplog.text


def test_a_hundred_labels_are_read(tmp_path):
    many = frames(tmp_path, *[(0,)] * 98, (0, 9), (0, 1), (9,))
    check_labels(many[:99], Reader(described("a", "b", void=(9,))), "train")
    many[100].label.unlink()
    check_labels(many, Reader(described("a", "b", void=(9,))), "train")


@pytest.mark.tried(
    "Reports of users", "16-bit frames with values of 10 or 12 bits", "status 2, naming the key that scales them"
)
@pytest.mark.parametrize("bits", [10, 12, 16])
def test_frames_of_fewer_bits_than_their_files(tmp_path, bits, caplog):
    caplog.set_level("INFO")
    scene = np.linspace(0, 1, 96).reshape(8, 12)
    for name, top, kind in (("deep", 2**bits - 1, np.uint16), ("flat", 255, np.uint8)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), (scene * top).astype(kind))
    path = tmp_path / "deep.png"
    deep = [LabelledFrame("x", (path,), path, "")]
    plain, told = Reader(described("a", "b")), Reader(described("a", "b", bits=bits))
    if bits < 16:
        with pytest.raises(UserError, match=rf"deep.png: .* {bits} bits .* write bits: {bits}"):
            check_frames(deep, plain)
        with pytest.raises(UserError, match=f"bits: {bits - 1} in the description, but values .* have {bits} bits"):
            check_frames(deep, Reader(described("a", "b", bits=bits - 1)))
    else:
        check_frames(deep, plain)
    check_frames(deep, told)
    assert f"frames of {bits} bits in 16-bit files" in caplog.text
    assert np.abs(told.frame(path).astype(int) - plain.frame(tmp_path / "flat.png")).max() <= 1
    check_frames([LabelledFrame("x", (tmp_path / "flat.png",), path, "")], plain)


def test_frames_of_floats_are_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "float.tif"), np.zeros((4, 4), np.float32))
    with pytest.raises(UserError, match="float.tif: its pixels are float32; save frames with 8 or 16 bits a channel"):
        Reader(CAMVID).frame(tmp_path / "float.tif")


def test_cached_frames_know_their_bits(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((4, 4), 4000, np.uint16))
    cache = PictureCache(tmp_path / "cache")
    dark, light = (Reader(described("a", "b", bits=bits), cache).frame(tmp_path / "a.png") for bits in (0, 12))
    assert dark.max() == 15 and light.min() == 250


@pytest.mark.tried("Reports of users", "labels that hold colours", "read by the description's or CamVid's colours")
def test_colours_become_ids(tmp_path, caplog):
    red, green, other = (200, 0, 0), (0, 200, 0), (9, 8, 7)
    config = described("a", "b", ids=(4, 9), label_colours=((red, 4), (green, 9)))
    pixels = np.array([[red, green, other, green]], np.uint8)
    cv2.imwrite(str(tmp_path / "l.png"), pixels[..., ::-1])
    cv2.imwrite(str(tmp_path / "alpha.png"), np.dstack([pixels[..., ::-1], np.full((1, 4), 255, np.uint8)]))
    cv2.imwrite(str(tmp_path / "grey.png"), np.repeat(np.array([[4, 9, 0, 9]], np.uint8)[..., None], 3, axis=2))
    assert Reader(config, labels=[tmp_path / "grey.png"]).ids(tmp_path / "grey.png").tolist() == [[4, 9, 0, 9]]
    reader = Reader(config, labels=[tmp_path / "grey.png", tmp_path / "l.png"])
    assert reader.coloured and not Reader(config, labels=[tmp_path / "grey.png"]).coloured
    for name, unknown in (("l.png", 255), ("alpha.png", 255)):
        assert reader.ids(tmp_path / name).tolist() == [[4, 9, unknown, 9]]
        assert reader.label(tmp_path / name).tolist() == [[0, 1, config.ignore, 1]]
    check_labels([LabelledFrame("x", (), tmp_path / "l.png", "")], reader, "train")
    assert "25.0 % of the pixels of the first 1 labels of train have colours of no class: (9, 8, 7) 1" in caplog.text
    with pytest.raises(UserError, match="use the label files that hold ids, not colours"):
        Reader(described("a", "b")).ids(tmp_path / "l.png")


def test_grey_values_are_colours_where_others_are(tmp_path):
    """A picture that shows one grey class alone is read like the others of its split."""
    black, white, red = (0, 0, 0), (255, 255, 255), (255, 0, 0)
    for name, colour in (("black", black), ("white", white), ("red", red)):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((2, 2, 3), colour, np.uint8)[..., ::-1])
    paths = {name: tmp_path / f"{name}.png" for name in ("black", "white", "red")}
    three = described("car", "road", "bg", label_colours=((red, 0), (white, 1), (black, 2)))
    assert Reader(three, labels=[*paths.values()]).label(paths["black"]).tolist() == [[2, 2], [2, 2]]
    two = described("bg", "fg", label_colours=((black, 0), (white, 1)))
    assert Reader(two, labels=[paths["black"], paths["white"]]).label(paths["white"]).tolist() == [[1, 1], [1, 1]]


def test_camvids_colours_are_merged_as_usual(tmp_path):
    colours = {(128, 128, 128): "sky", (192, 0, 128): "building", (128, 0, 192): "road", (192, 64, 128): "car",
               (64, 64, 0): "pedestrian", (192, 0, 192): "bicyclist", (0, 0, 0): None}
    cv2.imwrite(str(tmp_path / "l.png"), np.array([[*colours]], np.uint8)[..., ::-1])
    found = Reader(CAMVID, labels=[tmp_path / "l.png"]).label(tmp_path / "l.png")[0]
    assert [CAMVID.classes[i] if i != CAMVID.ignore else None for i in found] == [*colours.values()]
    assert len(CAMVID.label_colours) == len(CAMVID.colour_ids) == 32


def declaring(ids: dict[str, int], void: tuple[int, ...] = ()) -> DatasetConfig:
    return DatasetConfig(
        name="mine", classes=tuple(ids), label_ids=tuple(ids.values()), void=void, class_weights=(1.0,) * len(ids),
        colours=((1, 2, 3),) * len(ids), default_path="",
    )


def test_train_ids_of_few_classes_are_recognised(tmp_path):
    dataset = declaring(dict(zip(CITYSCAPES.classes, CITYSCAPES.label_ids)))
    labels = [(0, 0, 0, 0, 1, 1, 13, 19)] * 3  # road, sidewalk, car and void
    with pytest.raises(UserError, match="holds trainIds of Cityscapes .*right would be road: {id: 0}"):
        check_labels(frames(tmp_path, *labels), Reader(dataset), "train")
    check_labels(frames(tmp_path, *[(0, 0, 0, 7, 8, 26, 26, 26)] * 3), Reader(dataset), "train")  # road by its labelId


@pytest.mark.parametrize("ids", [(0, 1, 2), (2, 3, 4)])
def test_ids_that_are_wrong_by_one_are_warned_of(tmp_path, caplog, monkeypatch, ids):
    monkeypatch.setattr("utils.logging.logger.propagate", True)
    with caplog.at_level("WARNING", logger="gsvnet"):
        check_labels(frames(tmp_path, ids), Reader(declaring({"a": 1, "b": 2, "c": 3})), "train")
    assert "or is every id of the description wrong by one?" in caplog.text
