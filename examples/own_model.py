"""Two networks that are trained on Fashion-MNIST in plain PyTorch, as users bring them.

    python examples/own_model.py --data-root DIR --out runs/own
    apq-tune run --model examples/own_model.py:resnet14 --weights runs/own/resnet14.pt --data fashion_mnist \
        --constraint 'weight_bytes<=40000' --out runs/own/resnet14

``--data-root`` is a folder with torchvision's FashionMNIST. Takes about three minutes for each network on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.datasets import FashionMNIST


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


def resnet14() -> nn.Module:
    """ResNet with 14 layers for small greyscale images."""
    stages = [
        BasicBlock(*shape) for shape in ((16, 16, 1), (16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1))
    ]
    return nn.Sequential(conv_bn(1, 16, 3), *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


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


def train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    """Train a model with Adam and a one-cycle schedule."""
    steps = epochs * (len(images) // 128)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(128)[: len(images) // 128]:
            optimizer.zero_grad()
            functional.cross_entropy(model(images[rows]), labels[rows]).backward()
            optimizer.step()
            schedule.step()


def main() -> None:
    """Train both networks and save their weights."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/own"))
    parser.add_argument("--epochs", type=int, default=3)
    given = parser.parse_args()
    torch.manual_seed(0)
    splits = [FashionMNIST(given.data_root, train=train) for train in (True, False)]
    (images, labels), test = [(split.data[:, None].float() / 255, split.targets) for split in splits]
    given.out.mkdir(parents=True, exist_ok=True)
    for build in (resnet14, ds_cnn):
        model = build()
        train(model, images, labels, given.epochs)
        torch.save(model.state_dict(), given.out / f"{build.__name__}.pt")
        print(f"{build.__name__}: test accuracy {accuracy(model, *test):.4f}")


if __name__ == "__main__":
    main()
