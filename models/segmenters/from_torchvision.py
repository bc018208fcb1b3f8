"""torchvision:NAME, the segmentation networks of torchvision."""
from config.errors import UserError, did_you_mean
from config.segmenters import TORCHVISION
from models.segmenters.foreign import ForeignSegmenter, as_user_errors, required
from utils.checkpoint import WeightsFile
from utils.logging import logger

HEADS = ("classifier.4.bias", "classifier.high_classifier.bias")  # one value a class
AUXILIARY = "aux_classifier"  # for training alone


def from_torchvision(
    specification: str, *, file: WeightsFile | None, names: tuple[str, ...], published: bool
) -> ForeignSegmenter:
    """The network with the weights of `file`, else with its published ones, which may have to be downloaded, or with
    published=False untrained. names: of the file's classes, if they are not the published ones. Raises UserError."""
    models, name = required("torchvision.models", specification), specification.removeprefix(TORCHVISION)
    known = models.list_models(module=models.segmentation)
    if name not in known:
        raise UserError(f"--segnet {specification}: no such network{did_you_mean(name, known)}; torchvision has "
                        f"{', '.join(known)}")
    weights = models.get_model_weights(name).DEFAULT
    head, categories = None if file is None else file.tensor(HEADS), tuple(weights.meta["categories"])
    channels = len(categories) if head is None else len(head)
    settings: dict = dict(weights=None, weights_backbone=None, num_classes=channels)
    if file is None and published:
        logger.info("%s: downloads %s unless torch has it already", specification, weights.url)
        settings = dict(weights=weights)
    with as_user_errors(specification, "; without a network, name a file with --segnet-weights"):
        network = models.get_model(name, **settings)
    if hasattr(network, AUXILIARY):
        network.aux_classifier = None
    own = categories if channels == len(categories) else names if channels == len(names) else ()
    return ForeignSegmenter(
        specification, network, file=file and file.without(AUXILIARY), names=own, multiple=1,
        call=lambda network, image: network(image)["out"],
    )
