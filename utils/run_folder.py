"""Run folders: LOG/run/DATASET/NAME/experiment_N."""
import contextlib
import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

from config.command_line import resolve
from config.errors import UserError
from config.options import FIELDS, FILES, LEARNED_FLOWS, NETWORK, NOT_OF_RUN, Options, flag, recorded
from config.segmenters import check_recorded, plain_name
from utils.files import write_json
from utils.folder_lock import FolderLock

LATEST, PREVIOUS, BEST = "checkpoint.pth.tar", "checkpoint_previous.pth.tar", "model_best.pth.tar"
PARAMETERS = "parameters.json"
_PREFIX = "experiment_"
_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")  # .NAME.PROCESS.tmp, before it is renamed to NAME


def run_root(options: Options) -> Path:
    """Folder that holds the experiments of this stage, segmenter and checkname."""
    names = {
        "gsv": f"{plain_name(options.segnet)}_{options.checkname}",
        "segnet": f"segnet_{options.segnet}_{options.checkname}",
        "flow": f"flow_{options.optical_flow_network}_{options.checkname}",
    }
    return Path(options.log_folder) / "run" / options.dataset / names[options.stage]


def new_experiment(options: Options) -> Path:
    """Make the next free experiment folder and write `parameters.json` into it. Raises UserError if that fails."""
    root = run_root(options)
    try:
        root.mkdir(parents=True, exist_ok=True)
        folder = _next_folder(root)
    except OSError as error:
        raise UserError(f"{root}: cannot make a folder here ({error.strerror}); choose another --log-folder") from error
    try:
        write_parameters(folder, options)
    except UserError:
        folder.rmdir()
        raise
    return folder


def claim(folder: Path) -> FolderLock:
    """Lock a run folder for this process, and delete temporary files of killed processes in it. Raises UserError."""
    lock = FolderLock(folder)
    for path in folder.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)
    return lock


def claim_experiment(options: Options) -> FolderLock:
    """Lock the folder of a training run: a new one, or with `--resume auto` that of a run killed before its first save.

    Raises UserError if the disk refuses.
    """
    newest = max(run_root(options).glob(f"{_PREFIX}*"), key=_number, default=None)
    if options.resume == "auto" and newest is not None and _saved_nothing(newest):
        with contextlib.suppress(UserError):  # another process is training in it: use a new one
            lock = claim(newest)
            write_parameters(newest, options)
            return lock
    return claim(new_experiment(options))


def _saved_nothing(folder: Path) -> bool:
    """Whether `folder` is that of a training run without a checkpoint."""
    try:
        evaluated = json.loads((folder / PARAMETERS).read_text())["evaluate"]
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return False
    return evaluated is False and not any((folder / name).exists() for name in (LATEST, PREVIOUS, BEST))


def write_parameters(folder: Path, options: Options) -> None:
    """Write the options with absolute paths, so that the run can be loaded from any working directory."""
    paths = ("data_path", "val_path", "label_path", "cache_dir", "weights_dir", *FILES)
    absolute = {name: os.path.abspath(path) for name in paths if (path := getattr(options, name))}
    write_json(folder / PARAMETERS, recorded(options) | absolute)


def _next_folder(root: Path) -> Path:
    number = max((_number(path) for path in root.glob(f"{_PREFIX}*")), default=-1) + 1
    while True:
        folder = root / f"{_PREFIX}{number}"
        try:
            folder.mkdir()
            return folder
        except FileExistsError:  # another run has just taken the number
            number += 1


def latest_experiment(options: Options) -> Path | None:
    """The newest experiment folder of this run name with a checkpoint."""
    folders = [path for path in run_root(options).glob(f"{_PREFIX}*") if (path / LATEST).is_file()]
    return max(folders, key=_number, default=None)


def parameters(folder: Path, hint: str) -> dict[str, Any]:
    """The options that the run in `folder` recorded, by name. Raises UserError."""
    path = folder / PARAMETERS
    try:
        content = json.loads(path.read_text())
        values = {name: tuple(x) if isinstance(x, list) else x for name, x in content.items() if name in FIELDS}
        for name, value in values.items():
            kind = type(getattr(Options(), name))
            if not isinstance(value, (int, float) if kind is float else kind):
                raise ValueError(f"{name} is {value!r}")
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not the options of a run ({error}); {hint}") from error
    return values


def with_run(options: Options) -> Options:
    """The options, with the values of the run that `--resume` continues for those that are not given.

    `--resume auto`, and a file without --reset-optimizer, continue a run in all its options; otherwise a file tells
    what its networks are and which data they are for. Raises UserError.
    """
    if options.resume in ("0", "1"):
        return options
    continued = options.resume == "auto" or not options.reset_optimizer
    folder = latest_experiment(options) if options.resume == "auto" else Path(options.resume).parent
    if folder is None or not (folder / PARAMETERS).is_file():
        return options
    values = parameters(folder, "restore the file, or delete it and give the run's options again")
    if values.get("stage") != options.stage:
        return options
    for name in ("segnet", "teacher"):
        if name not in options.given and (name == "segnet" or continued):
            check_recorded(str(values.get(name, "")), str(values.get(f"{name}_weights", "")), f"{folder}", flag(name))
    # With --multi-step it is known where the frames end that a run without labels was trained on.
    kept = {*values} if continued else {*NETWORK, "multi_step"} if options.evaluate else {*NETWORK}
    run = {name: x for name, x in values.items() if name in kept - NOT_OF_RUN}
    return resolve({name: getattr(options, name) for name in options.given}, run)


def run_options(folder: Path, segnet: str = "") -> Options:
    """The options of the propagation run in `folder`, with `--resume` set to its best networks.

    segnet: its segmenter, where building that runs the user's code or downloads something. Raises UserError.
    """
    options = Options(**parameters(folder, "name the folder of a propagation run"))
    if segnet:
        options = dataclasses.replace(options, segnet=segnet)
    else:
        check_recorded(options.segnet, options.segnet_weights, f"{folder}")
    weights = next((folder / name for name in (BEST, LATEST) if (folder / name).is_file()), None)
    if options.stage != "gsv" or weights is None:
        raise UserError(f"{folder}: contains no trained propagation ({BEST}); name the folder of a --stage gsv run")
    load_flow = options.optical_flow_network in LEARNED_FLOWS
    return dataclasses.replace(options, evaluate=True, method="gsv", resume=str(weights), load_flow=load_flow)


def _number(folder: Path) -> int:
    digits = folder.name.removeprefix(_PREFIX)
    return int(digits) if digits.isdigit() else -1
