"""The keyframe segmenter that the options name, with its weights, for the right classes, and no other than it was."""
from collections.abc import Iterator, Sequence
from pathlib import Path

from config.camvid import PIDNET_ORDER
from config.cityscapes import CITYSCAPES
from config.class_map import members, read_class_map, same_names
from config.command_line import resolve
from config.custom import distinct_colours
from config.datasets import DATASETS, UNLABELLED, dataset_config
from config.errors import UserError
from config.options import Options
from config.schema import DatasetConfig
from config.segmenters import NATIVE
from models import released
from models.build import build_foreign, build_segmenter, segmenter_class
from models.identity import SegmenterIdentity, described, digest_of
from models.segmenters.base import MergedClasses, Segmenter
from utils.checkpoint import WeightsFile
from utils.logging import logger
from utils.run_folder import BEST

WEIGHT_ENDINGS = (".pt", ".pth", ".tar")


def classes_of(options: Options, segmenter: Segmenter) -> DatasetConfig:
    """The classes of the segmenter's logits as a data set's: the options' one, or another that is known. Those of a
    foreign segmenter by itself are names, colours, and indices for ids."""
    known = (dataset_config(options.dataset, options.data_path), *DATASETS.values())
    if not segmenter.names:
        return known[0]
    resumed = options.resume != "0" and options.dataset != UNLABELLED
    if options.segnet in NATIVE or data_set_counts(options) or resumed:
        for dataset in known:
            if same_names(dataset.classes, segmenter.names):
                return dataset
    count = len(segmenter.names)
    return DatasetConfig(
        name=options.segnet, classes=segmenter.names, label_ids=tuple(range(count)), default_path="",
        colours=segmenter.colours or tuple(distinct_colours(count)), class_weights=(1.0,) * count,
    )


def colours_of(segmenter: Segmenter) -> Sequence[tuple[int, int, int]]:
    """RGB of its classes: its own, those of the data set that has the same classes, or distinct ones."""
    known = next((x.colours for x in DATASETS.values() if same_names(x.classes, segmenter.names)), ())
    return segmenter.colours or known or distinct_colours(len(segmenter.names))


def data_set_counts(options: Options) -> bool:
    """Whether the classes are the data set's. Without one, videos, their benchmark and exports have the segmenter's."""
    if options.dataset == UNLABELLED:
        return bool(options.class_map)
    by_itself = options.video or options.export or options.benchmark == "video"
    return not by_itself or bool({"dataset", "class_map"} & {*options.given})


def fresh_segmenter(options: Options) -> Segmenter:
    """The segmenter as it is built, without any file; a foreign one may bring weights. Raises UserError."""
    dataset = dataset_config(options.dataset, options.data_path)
    if options.segnet in NATIVE:
        segmenter = build_segmenter(name=options.segnet, classes=dataset.num_classes)
        segmenter.names = dataset.classes
        return segmenter
    names = dataset.classes if data_set_counts(options) else ()
    return _for_classes(build_foreign(name=options.segnet, names=names, published=False), names, options)


def loaded_segmenter(options: Options, file: WeightsFile | None, trained: SegmenterIdentity | None) -> Segmenter:
    """The segmenter with the weights of `file`, for the classes of the data set, of the propagation that was `trained`
    on it, or its own. Raises UserError where their names do not match, or it is not the one of `trained`."""
    wanted = trained.classes if trained is not None else ()
    if data_set_counts(options):
        wanted = dataset_config(options.dataset, options.data_path).classes
    if options.segnet not in NATIVE:
        segmenter: Segmenter = build_foreign(name=options.segnet, file=file, names=wanted)
        if trained is not None and (found := digest_of(segmenter)) != trained.digest:
            raise UserError(
                f"--segnet {options.segnet}: digest {found}, but the propagation was trained on "
                f"{trained.specification} {trained.file} (digest {trained.digest}); name that segmenter"
            )
    elif file is not None:
        names = names_in(file, options)
        segmenter = build_segmenter(name=options.segnet, classes=len(names))
        released.load_segmenter(segmenter, file, options.segnet)
        segmenter.names = names
    segmenter = _for_classes(segmenter, wanted, options)
    recorded = trained.description if trained is not None else {}
    for key, value in described(segmenter).items():
        if (before := recorded.get(key, value)) != value:
            raise UserError(f"--segnet {options.segnet}: {key} is {value}, but the propagation was trained with "
                            f"{before}; use the same")
    return segmenter


def teacher_of(options: Options) -> Segmenter | None:
    """The frozen segmenter that --teacher names, with its weights, for the data set's classes. Raises UserError."""
    if not options.teacher:
        return None
    named = {name: getattr(options, name) for name in ("dataset", "data_path", "weights_dir")}
    file = {"segnet_weights": options.teacher_weights} if options.teacher_weights else {}
    teacher = resolve({"segnet": options.teacher, **named, **file})
    return loaded_segmenter(teacher, segmenter_file(teacher, None, ""), None)


def _for_classes(segmenter: Segmenter, wanted: tuple[str, ...], options: Options) -> Segmenter:
    """The segmenter with logits for the `wanted` classes; its own where they are empty. Raises UserError."""
    class_map = read_class_map(options.class_map) if options.class_map else {}
    if wanted and (class_map or not same_names(segmenter.names, wanted)):
        found = members(segmenter.names, wanted, class_map, path=options.class_map, segnet=options.segnet)
        segmenter.merged = MergedClasses(found)
        segmenter.colours = tuple(segmenter.colours[first] for first, *_ in found) if segmenter.colours else ()
    segmenter.names = wanted or segmenter.names
    return segmenter


def names_in(file: WeightsFile, options: Options) -> tuple[str, ...]:
    """The classes of a native segmenter's file: those that it records; of a released file, which has only their number,
    Cityscapes', CamVid's in PIDNet's order, or the data set's."""
    recorded, dataset = SegmenterIdentity.recorded(file.content), dataset_config(options.dataset, options.data_path)
    if recorded is not None:
        return recorded.classes
    kind = segmenter_class(options.segnet)
    values = file.tensor((kind.class_tensor, kind.class_tensor.removeprefix(kind.prefix)))
    count = dataset.num_classes if values is None or values.ndim == 0 else len(values)
    for known in (CITYSCAPES.classes, *([PIDNET_ORDER] if options.segnet.startswith("pidnet") else [])):
        if count == len(known) and (count != dataset.num_classes or {*dataset.classes} == {*known}):
            return known
    return dataset.classes or tuple(f"class {index}" for index in range(count))


def segmenter_file(options: Options, resumed: WeightsFile | None, before: str) -> WeightsFile | None:
    """The segmenter's file: that which a resumed propagation was trained on, else the one that the options name; None
    for a foreign segmenter with its own weights. before: what an older checkpoint was trained on."""
    trained = SegmenterIdentity.recorded(resumed.content) if resumed is not None else None
    if options.segnet not in NATIVE:
        path, expected = options.segnet_weights, f"weights of the keyframe segmenter {options.segnet}"
        # If the file is gone, that is an error: a network's own weights, perhaps a download, must not replace it.
        if trained and (Path(trained.file).is_file() or trained.specification == options.segnet):
            path = path or trained.file
        return WeightsFile.read(Path(path), expected, "name its file with --segnet-weights") if path else None
    if resumed is not None and trained is not None:
        return _find_segmenter(options, resumed.path, trained)
    if not options.segnet_weights and options.segnet not in released.SEGMENTER_FILES:
        raise UserError(
            f"{options.segnet}: its authors published no weights; train it with --stage tdnet and name that run's file "
            "with --resume, or use --tdnet psp18, whose weights they published"
        )
    path = options.segnet_weights or str(Path(options.weights_dir) / released.SEGMENTER_FILES[options.segnet])
    if "segnet_weights" not in options.given and Path(before).is_file():
        path = before
    return released.read_segmenter(Path(path), options.segnet)


def _find_segmenter(options: Options, checkpoint: Path, trained: SegmenterIdentity) -> WeightsFile:
    """Find the segmenter that a propagation was trained on: where it was, near the checkpoint, or in --weights-dir."""
    named = "segnet_weights" in options.given and options.segnet_weights
    for path in [Path(named)] if named else _near(checkpoint, trained, Path(options.weights_dir)):
        try:
            file = released.read_segmenter(path, options.segnet, log=bool(named))
            segmenter = build_segmenter(name=options.segnet, classes=len(names_in(file, options)))
            released.load_segmenter(segmenter, file, options.segnet)
        except UserError:
            if named:
                raise
            continue
        if (found := digest_of(segmenter)) == trained.digest:
            logger.info("%s: the segmenter of %s, digest %s", path, checkpoint, found)
            return file
        if named:
            raise UserError(
                f"--segnet-weights {path}: digest {found}, but {checkpoint} was trained on {trained.file or 'another'} "
                f"(digest {trained.digest}); name that segmenter, or drop the option to have it found"
            )
    raise UserError(
        f"{checkpoint}: its segmenter, {trained.file or trained.specification} (digest {trained.digest}), is neither "
        f"there nor near the checkpoint nor in {options.weights_dir}; name its file with --segnet-weights"
    )


def _near(checkpoint: Path, trained: SegmenterIdentity, weights_dir: Path) -> Iterator[Path]:
    """Yield the files that may be a checkpoint's segmenter, the likeliest first."""
    folders = [checkpoint.parent, weights_dir]
    others = checkpoint.absolute().parents[2:3]  # of the log folder's data set: .../RUN/experiment_N/FILE
    yield from (path for path in [Path(trained.file)] if path.is_file())
    for found in (*(x.glob(f"segnet_*/*/{BEST}") for x in others), *(x.iterdir() for x in folders if x.is_dir())):
        yield from sorted(x for x in found if x.suffix in WEIGHT_ENDINGS and x.is_file() and x != checkpoint)
