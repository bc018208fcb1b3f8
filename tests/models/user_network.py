"""Networks as a user would write them in a file of their own; tests copy it for --segnet FILE.py:FUNCTION."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

CLASSES = ("road", "car", "sky", "traffic light")


@dataclass
class Widths:
    """With annotations that are looked up in the file's module."""

    hidden: int = 8


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        hidden = Widths().hidden
        self.first, self.norm = nn.Conv2d(3, hidden, 3, stride=4, padding=1), nn.BatchNorm2d(hidden)
        self.last = nn.Conv2d(hidden, len(CLASSES), 1)
        torch.manual_seed(3)
        for x in self.parameters():
            nn.init.normal_(x, std=0.3)

    def forward(self, image):
        return self.last(self.norm(self.first(image)).relu())


class Views(Net):
    """Makes views of its input, which therefore has to be contiguous."""

    def forward(self, image):
        return super().forward(image.view(-1).view(image.shape))


class Shares(Net):
    """Returns probabilities; their sum is not 1."""

    def forward(self, image):
        return 0.7 * super().forward(image).softmax(dim=1)


class Outputs(Net):
    """Returns more than scores."""

    def forward(self, image):
        return {"features": None, "out": super().forward(image)}


def module():
    return Net()


def views():
    return Views()


def pair():
    return Net(), {"classes": CLASSES, "colours": [(i, i, i) for i in range(4)], "mean": [100, 110, 120],
                   "std": [50, 60, 70], "multiple": 4, "scores": "logits"}


def other():
    network, settings = pair()
    nn.init.zeros_(network.last.bias)
    return network, settings


def probabilities():
    return Shares(), {"classes": CLASSES, "scores": "probabilities"}


def picked():
    return Outputs(), {"pick": lambda output: output["out"]}


def script():
    return torch.jit.trace(Net().eval(), torch.zeros(1, 3, 64, 96))


def program(name="net.pt2"):
    return torch.export.load(Path(__file__).parent / name).module(), {"classes": CLASSES}


def training_program():
    return program("training.pt2")
