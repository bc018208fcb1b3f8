"""hf:NAME_OR_FOLDER, the networks of transformers with a head for semantic or universal segmentation."""
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from config.segmenters import HUGGING_FACE
from models.segmenters.foreign import ForeignSegmenter, as_user_errors, required
from utils.checkpoint import WeightsFile
from utils.logging import logger


def class_scores(output: Any) -> Tensor:
    """Output of a universal head -> scores (N,C,h',w'): over all queries, class probability times mask."""
    classes = output.class_queries_logits.softmax(dim=-1)[..., :-1]  # (N,Q,C), without the last, "no object"
    return torch.einsum("nqc,nqhw->nchw", classes, output.masks_queries_logits.sigmoid())


def from_transformers(specification: str, *, file: WeightsFile | None, published: bool) -> ForeignSegmenter:
    """The network with the weights of `file`, else with those of the folder or name, which may have to be downloaded,
    else, with published=False and none there, untrained. Raises UserError."""
    library, place = required("transformers", specification), specification.removeprefix(HUGGING_FACE)
    where = dict(local_files_only=Path(place).is_dir(), trust_remote_code=False)
    if not where["local_files_only"]:
        logger.info("%s: downloads it from huggingface.co unless the cache there has it", specification)
    with as_user_errors(specification, "; name a network for semantic or universal segmentation, or its folder"):
        config = library.AutoConfig.from_pretrained(place, **where)
        universal = type(config) in library.MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING
        kind = library.AutoModelForUniversalSegmentation if universal else library.AutoModelForSemanticSegmentation
        network = kind.from_config(config) if file is not None else _pretrained(kind, config, place, where, published)
    mean, std, bgr = [], [], False
    try:
        processor = library.AutoImageProcessor.from_pretrained(place, **where)
    except Exception as error:  # not every folder has one
        logger.info("%s: no image processor: %s", specification, str(error).splitlines()[0][:100])
    else:
        factor = processor.rescale_factor if processor.do_rescale else 1.0
        normalises, bgr = getattr(processor, "do_normalize", False), getattr(processor, "do_flip_channel_order", False)
        mean = [x / factor for x in (processor.image_mean if normalises else (0.0,) * 3)]
        std = [x / factor for x in (processor.image_std if normalises else (1.0,) * 3)]
    side, patch = getattr(config, "image_size", None), getattr(config, "patch_size", None)
    pick = class_scores if universal else lambda output: output.logits
    return ForeignSegmenter(
        specification, network, file=file, names=[config.id2label[i] for i in sorted(config.id2label)], mean=mean,
        std=std, scores="probabilities" if universal else "logits", only_size=(side, side) if side else None,
        multiple=patch if isinstance(patch, int) and 32 % patch else 32,
        call=lambda network, image: pick(network(pixel_values=image.flip(1) if bgr else image)),
    )


def _pretrained(kind: Any, config: Any, place: str, where: dict, published: bool) -> nn.Module:
    """The network with its weights. Raises ValueError where a part of it would start at random."""
    try:
        network, found = kind.from_pretrained(place, dtype=torch.float32, output_loading_info=True, **where)
    except OSError:
        if published:
            raise
        return kind.from_config(config)
    if fresh := sorted([*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])]):
        raise ValueError(f"its weights lack {len(fresh)} tensors of the network ({fresh[0]}, ...)")
    return network
