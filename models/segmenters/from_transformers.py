"""hf:NAME_OR_FOLDER, the networks of transformers with a head for semantic or universal segmentation."""
from pathlib import Path
from typing import Any

import torch

from config.segmenters import HUGGING_FACE
from models.segmenters.foreign import ForeignSegmenter, as_user_errors, reason_of, required
from utils.checkpoint import WeightsFile
from utils.logging import logger

MASKED = "attn_mask_probs"  # a buffer of EoMT: which blocks mask their attention; a graph cannot branch on its values


def class_scores(output: Any) -> torch.Tensor:
    """Output of a universal head -> scores (N,C,h',w'): over all queries, class probability times mask."""
    classes = output.class_queries_logits.softmax(dim=-1)[..., :-1]  # (N,Q,C), without the last, "no object"
    return torch.einsum("nqc,nqhw->nchw", classes, output.masks_queries_logits.sigmoid())


def from_transformers(specification: str, *, file: WeightsFile | None, published: bool) -> ForeignSegmenter:
    """The network with the weights of `file`, else with those of the folder or name, which may have to be downloaded,
    else, with published=False and none there, untrained. Raises UserError."""
    library, place = required("transformers", specification), specification.removeprefix(HUGGING_FACE)
    library.logging.disable_progress_bar()
    where = dict(local_files_only=(local := Path(place).is_dir()), trust_remote_code=False)
    logger.info("%s: %s", specification, "read" if local else "downloaded from huggingface.co if not in the cache")
    with as_user_errors(specification, "; name a network for semantic or universal segmentation, or its folder"):
        config = library.AutoConfig.from_pretrained(place, **where)
        universal = type(config) in library.MODEL_FOR_UNIVERSAL_SEGMENTATION_MAPPING
        kind = library.AutoModelForUniversalSegmentation if universal else library.AutoModelForSemanticSegmentation
        network = kind.from_config(config) if file is not None else _pretrained(kind, config, place, where, published)
    mean, std, bgr = [], [], False
    try:
        processor = library.AutoImageProcessor.from_pretrained(place, **where)
        factor = processor.rescale_factor if processor.do_rescale else 1.0
        normalises, bgr = getattr(processor, "do_normalize", False), getattr(processor, "do_flip_channel_order", False)
        own = (processor.image_mean, processor.image_std) if normalises else ((0.0,) * 3, (1.0,) * 3)
        mean, std = ([x / factor for x in values] for values in own)
    except Exception as error:  # not every folder has one
        logger.info("%s: no image processor: %s", specification, reason_of(error))
    scores, pick = ("probabilities", class_scores) if universal else ("logits", lambda output: output.logits)
    side, patch = getattr(config, "image_size", None), getattr(config, "patch_size", None)
    segmenter = ForeignSegmenter(
        specification, network, file=file, names=[config.id2label[i] for i in sorted(config.id2label)], mean=mean,
        std=std, scores=scores, multiple=patch if isinstance(patch, int) and 32 % patch else 32,
        only_size=(side, side) if isinstance(side, int) else side and tuple(side),
        call=lambda network, image: pick(network(pixel_values=image.flip(1) if bgr else image)),
    )
    if isinstance(probabilities := getattr(network, MASKED, None), torch.Tensor):
        vars(network)[MASKED] = probabilities.tolist()  # found before the buffer, which stays in the state dict
    return segmenter


def _pretrained(kind: Any, config: Any, place: str, where: dict, published: bool) -> torch.nn.Module:
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
