"""smp:ARCH:ENCODER and smp:FOLDER, the networks of segmentation_models_pytorch."""
from contextlib import redirect_stdout
from pathlib import Path

from torch import nn

from config.cityscapes import CITYSCAPES
from config.errors import UserError
from config.segmenters import SMP
from models.segmenters.foreign import ForeignSegmenter, as_user_errors, required
from utils.checkpoint import WeightsFile

HEADS = ("segmentation_head.0.bias", "segmentation_head.head.4.bias")  # one value a class


def from_smp(
    specification: str, *, file: WeightsFile | None, names: tuple[str, ...], published: bool
) -> ForeignSegmenter:
    """The network with the weights of `file`, or of FOLDER (`save_pretrained`), or with published=False untrained.
    names: of the classes, which its files do not tell. Raises UserError."""
    smp, name = required("segmentation_models_pytorch", specification), specification.removeprefix(SMP)
    folder, (architecture, _, encoder) = Path(name).is_dir(), name.partition(":")
    if not folder and not (encoder and (file is not None or not published)):
        needed = "trained weights: --segnet-weights FILE, or smp:FOLDER" if encoder else "smp:ARCH:ENCODER or a folder"
        raise UserError(f"--segnet {specification}: requires {needed}")
    head = None if file is None else file.tensor(HEADS)
    channels = len(head) if head is not None else len(names or CITYSCAPES.classes)
    with as_user_errors(specification), redirect_stdout(None):  # the library prints
        if folder:  # its config may name an encoder's weights, which would be downloaded and then replaced
            network = smp.from_pretrained(name, local_files_only=True, encoder_weights=None)
        else:
            network = smp.create_model(architecture, encoder_name=encoder, encoder_weights=None, classes=channels)
    parts = [*network.segmentation_head.modules()]
    *_, last = (part for part in parts if isinstance(part, nn.Conv2d))
    squashed = any(isinstance(part, (nn.Softmax, nn.Sigmoid)) for part in parts)
    return ForeignSegmenter(
        specification, network, file=file, names=names if last.out_channels == len(names) else (),
        scores="probabilities" if squashed else "logits",
    )
