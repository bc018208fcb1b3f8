"""Networks of other libraries, made offline, tiny and with random weights, for tests of foreign segmenters."""
import importlib
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from models.segmenters.base import Segmenter
from tests.models import user_network
from tests.released import parameter_value

CLASSES = ("road", "car", "sky", "traffic light")
PROGRAM_SIZE = (64, 96)  # of the image that an exported program takes
STRICT = "EXTRAS"  # an environment variable: where it is set, a package that is missing is a failure


def extra(package: str) -> ModuleType:
    """Import a package of requirements-extra.txt; without it the test is skipped, with EXTRAS=1 it fails."""
    hidden = package in sys.modules and sys.modules[package] is None  # see tests/conftest.py
    strict = os.environ.get(STRICT) and not hidden
    return importlib.import_module(package) if strict else pytest.importorskip(package)


def randomised(network: nn.Module) -> nn.Module:
    """Give every tensor of floats a value that its name and shape determine, in place."""
    with torch.no_grad():
        for name, x in network.state_dict().items():
            if x.is_floating_point():
                x.copy_(torch.from_numpy(parameter_value(name, tuple(x.shape))))
    return network.eval()


def _swin(t: Any) -> Any:
    return t.SwinConfig(embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, window_size=4,
                        out_features=["stage1", "stage2", "stage3", "stage4"])


def _convnext(t: Any) -> Any:
    return t.ConvNextConfig(hidden_sizes=[8] * 4, depths=[1] * 4,
                            out_features=["stage1", "stage2", "stage3", "stage4"])


def _upernet(t: Any, backbone: Any, last: int, **labels: Any) -> nn.Module:
    config = t.UperNetConfig(backbone_config=backbone, hidden_size=16, auxiliary_in_channels=last,
                             auxiliary_channels=8, **labels)
    return t.UperNetForSemanticSegmentation(config)


_VIT = dict(hidden_size=16, num_attention_heads=2, intermediate_size=16, patch_size=16)
_QUERIES = dict(num_queries=5, num_attention_heads=2)
_DETR = dict(d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=16, decoder_ffn_dim=16,
             encoder_attention_heads=2, decoder_attention_heads=2, num_queries=5)
TRANSFORMERS: dict[str, tuple[Callable[..., nn.Module], str]] = {  # (library, labels) -> network; its image processor
    "segformer": (lambda t, **labels: t.SegformerForSemanticSegmentation(t.SegformerConfig(
        depths=[1] * 4, hidden_sizes=[8] * 4, num_attention_heads=[1] * 4, decoder_hidden_size=16, **labels)),
        "SegformerImageProcessor"),
    "upernet-swin": (lambda t, **labels: _upernet(t, _swin(t), 32, **labels), "SegformerImageProcessor"),
    "upernet-convnext": (lambda t, **labels: _upernet(t, _convnext(t), 8, **labels), "SegformerImageProcessor"),
    "dpt": (lambda t, **labels: t.DPTForSemanticSegmentation(t.DPTConfig(
        **_VIT, num_hidden_layers=4, image_size=64, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[8] * 4,
        fusion_hidden_size=8, is_hybrid=False, **labels)), "DPTImageProcessor"),
    "beit": (lambda t, **labels: t.BeitForSemanticSegmentation(t.BeitConfig(
        **_VIT, num_hidden_layers=4, image_size=64, out_indices=[1, 2, 3, 4], pool_scales=[1, 2],
        use_relative_position_bias=True, **labels)), "BeitImageProcessor"),
    "mobilevit": (lambda t, **labels: t.MobileViTForSemanticSegmentation(t.MobileViTConfig(
        hidden_sizes=[16] * 3, neck_hidden_sizes=[8, 8, 8, 16, 16, 16, 32], num_attention_heads=2,
        aspp_out_channels=16, **labels)), "MobileViTImageProcessor"),
    "mask2former": (lambda t, **labels: t.Mask2FormerForUniversalSegmentation(t.Mask2FormerConfig(
        **_QUERIES, backbone_config=_swin(t), feature_size=64, mask_feature_size=64, hidden_dim=64,
        encoder_feedforward_dim=16, dim_feedforward=16, encoder_layers=1, decoder_layers=2, **labels)),
        "Mask2FormerImageProcessor"),
    "maskformer": (lambda t, **labels: t.MaskFormerForInstanceSegmentation(t.MaskFormerConfig(
        backbone_config=_swin(t), decoder_config=t.DetrConfig(**_DETR), fpn_feature_size=64, mask_feature_size=64,
        **labels)), "MaskFormerImageProcessor"),
    "eomt": (lambda t, **labels: t.EomtForUniversalSegmentation(t.EomtConfig(
        **_QUERIES, hidden_size=16, num_hidden_layers=2, mlp_ratio=1, image_size=64, patch_size=16, num_blocks=1,
        num_upscale_blocks=1, num_register_tokens=1, **labels)), "EomtImageProcessor"),
}
UNIVERSAL = ("mask2former", "maskformer", "eomt")


def transformers_network(kind: str, folder: Path) -> nn.Module:
    """A network of TRANSFORMERS, which is also saved in `folder`, with its image processor."""
    library = extra("transformers")
    if kind in UNIVERSAL:
        extra("scipy")  # their losses import it
    build, processor = TRANSFORMERS[kind]
    network = randomised(build(library, num_labels=len(CLASSES), id2label=dict(enumerate(CLASSES)),
                               label2id={name: i for i, name in enumerate(CLASSES)}))
    network.save_pretrained(folder)
    getattr(library, processor)().save_pretrained(folder)
    return network


def user_file(folder: Path) -> Path:
    """tests/models/user_network.py copied into `folder`, with the exported programs that functions of it load."""
    path = Path(shutil.copy(user_network.__file__, folder / "net.py"))
    for name, network in (("net", user_network.Net().eval()), ("training", user_network.Net().train())):
        torch.export.save(torch.export.export(network, (torch.zeros(1, 3, *PROGRAM_SIZE),)), folder / f"{name}.pt2")
    return path


class TinySegmenter(Segmenter):
    """Quick to run, compile and export; its labels follow the colours."""

    classes, stride = 5, 4
    pixel_mean = view_mean = (100.0, 110.0, 120.0)
    pixel_std = view_std = (50.0, 60.0, 70.0)

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, self.classes, 7, stride=self.stride, padding=3)

    def forward(self, image):
        return self.conv(image)
