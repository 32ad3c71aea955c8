"""Networks that are trained in plain PyTorch, as users bring them: two on Fashion-MNIST, or one on a folder of photos.

    python examples/own_model.py --data-root DIR --out runs/own
    apq-tune run --model examples/own_model.py:resnet14 --weights runs/own/resnet14.pt --data fashion_mnist \
        --constraint 'weight_bytes<=40000' --out runs/own/resnet14

    python examples/own_model.py --folder PHOTOS --out runs/own
    apq-tune run --model examples/own_model.py:resnet14_color --weights runs/own/resnet14_color.pt --data PHOTOS \
        --input 3,32,32 --constraint 'weight_bytes<=40000' --out runs/own/resnet14_color

``--data-root`` is a folder with torchvision's FashionMNIST; ``--folder`` has ``train/CLASS/`` and ``test/CLASS/`` with
photos of ten classes. Takes about three minutes for each network on one core.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision import transforms
from torchvision.datasets import FashionMNIST, ImageFolder

from apq_tune.errors import ApqError


def conv_bn(inner: int, outer: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm and ReLU."""
    conv = nn.Conv2d(inner, outer, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outer), nn.ReLU(inplace=True))


class BasicBlock(nn.Module):
    """Two convolutions with a shortcut (He 2016)."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = conv_bn(inner, outer, 3, stride)
        self.conv2 = nn.Conv2d(outer, outer, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.shortcut = nn.Sequential()
        if stride > 1 or inner != outer:
            self.shortcut = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))

    def forward(self, x: Tensor) -> Tensor:
        """Run the block."""
        return functional.relu(self.bn2(self.conv2(self.conv1(x))) + self.shortcut(x))


def resnet14(channels: int = 1, stride: int = 1) -> nn.Module:
    """ResNet with 14 layers for small images, with a number of input channels and a stride of its first layer."""
    stages = [
        BasicBlock(*shape) for shape in ((16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1))
    ]
    return nn.Sequential(
        conv_bn(channels, 16, 3, stride), *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)
    )


def resnet14_color() -> nn.Module:
    """ResNet with 14 layers for colour images of 32 x 32 pixels."""
    return resnet14(channels=3, stride=2)


def ds_cnn() -> nn.Module:
    """Depthwise-separable network (Zhang 2017)."""
    blocks = [part for _ in range(4) for part in (conv_bn(64, 64, 3, groups=64), conv_bn(64, 64, 1))]
    return nn.Sequential(
        conv_bn(1, 64, 5, 2), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(64, 10)
    )


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Accuracy of a model in evaluation mode."""
    with torch.no_grad():
        found = torch.cat([model.eval()(part).argmax(dim=1) for part in images.split(500)])
    return float((found == labels).float().mean())


def train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int, flip: bool = False) -> None:
    """Train a model with Adam and a one-cycle schedule, every other batch mirrored if ``flip`` is set."""
    steps = epochs * (len(images) // 128)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for number, rows in enumerate(torch.randperm(len(images)).split(128)[: len(images) // 128]):
            batch = images[rows].flip(3) if flip and number % 2 else images[rows]
            optimizer.zero_grad()
            functional.cross_entropy(model(batch), labels[rows]).backward()
            optimizer.step()
            schedule.step()


def photos(folder: Path) -> list[tuple[Tensor, Tensor]]:
    """Images of 32 x 32 pixels between 0 and 1, and labels, of the splits ``train`` and ``test`` of a folder."""
    to_tensor = transforms.Compose([transforms.Resize((32, 32)), transforms.ToTensor()])
    splits = [list(ImageFolder(folder / split, to_tensor)) for split in ("train", "test")]
    return [(torch.stack([image for image, _ in one]), torch.tensor([label for _, label in one])) for one in splits]


def fashion_mnist(root: Path) -> list[tuple[Tensor, Tensor]]:
    """Images between 0 and 1, and labels, of the training and of the test split."""
    splits = [FashionMNIST(root, train=train) for train in (True, False)]
    return [(split.data[:, None].float() / 255, split.targets) for split in splits]


def main() -> None:
    """Train the networks and save their weights."""
    parser = argparse.ArgumentParser()
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--data-root", type=Path)
    data.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/own"))
    parser.add_argument("--epochs", type=int, help="3 on Fashion-MNIST, 12 on photos")
    given = parser.parse_args()
    torch.manual_seed(0)
    color = given.folder is not None
    (images, labels), test = photos(given.folder) if color else fashion_mnist(given.data_root)
    given.out.mkdir(parents=True, exist_ok=True)
    for build in (resnet14_color,) if color else (resnet14, ds_cnn):
        model = build()
        train(model, images, labels, given.epochs or (12 if color else 3), flip=color)
        torch.save(model.state_dict(), given.out / f"{build.__name__}.pt")
        print(f"{build.__name__}: test accuracy {accuracy(model, *test):.4f}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except (ApqError, OSError) as error:
        sys.exit(f"error: {error}")
