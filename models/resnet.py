"""ResNet-18 trunk shared by both keyframe segmenters: torchvision's layers without the classifier."""
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import ResNet18_Weights, resnet18


class ResNet18(nn.Module):
    """torchvision's ResNet-18 without its classifier.

    `pretrained` downloads torchvision's ImageNet weights (the only network access of the program).
    """

    channels = (64, 128, 256, 512)  # of layer1 .. layer4, at strides 4, 8, 16, 32

    def __init__(self, *, pretrained: bool = False):
        super().__init__()
        trunk = resnet18(weights=ResNet18_Weights.IMAGENET1K_V1 if pretrained else None)
        self.conv1, self.bn1 = trunk.conv1, trunk.bn1
        self.layer1, self.layer2, self.layer3, self.layer4 = trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4

    def features(self, x: Tensor) -> list[Tensor]:
        """Normalised image (N,3,H,W) -> outputs of layer1 .. layer4, (N,channels[i],H/2**(i+2),W/2**(i+2)).

        SwiftNet's paper takes its skips before the last ReLU of a layer. The released program does too, but its ReLUs
        work in place, so its skips, with which its weights were trained, are the maps after ReLU.
        """
        x = F.relu(self.bn1(self.conv1(x)))  # (N,64,H/2,W/2)
        x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)  # (N,64,H/4,W/4)
        maps = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            maps.append(x)
        return maps
