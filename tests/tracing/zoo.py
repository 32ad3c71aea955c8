"""Small networks of the kinds that users have; each has ten classes, and ``example_of`` its input."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


def conv_bn(inner: int, outer: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    conv = nn.Conv2d(inner, outer, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outer), nn.ReLU(inplace=True))


class DSCNN(nn.Module):
    """Depthwise-separable network for keyword spotting (Zhang 2017)."""

    def __init__(self, channels: int = 16, blocks: int = 2, inner: int = 1, kernel: tuple[int, int] = (10, 4)) -> None:
        super().__init__()
        padding = (kernel[0] // 2, (kernel[1] - 1) // 2)
        self.conv = nn.Conv2d(inner, channels, kernel, (2, 2), padding, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        parts = [part for _ in range(blocks) for part in (conv_bn(channels, channels, groups=channels), None)]
        self.blocks = nn.Sequential(*[conv_bn(channels, channels, 1) if part is None else part for part in parts])
        self.classifier = nn.Linear(channels, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(functional.relu(self.norm(self.conv(x))))
        return self.classifier(functional.dropout(x.mean((2, 3)), 0.2, self.training))


class BasicBlock(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.shortcut = nn.Sequential()
        if stride > 1 or inner != outer:
            self.shortcut = nn.Sequential(nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer))

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += self.shortcut(x)
        return functional.relu(y)


class ResNet(nn.Module):
    """ResNet for small images (He 2016): 8 layers with one block in each stage, 14 with two."""

    def __init__(self, blocks: int, widths: tuple[int, ...] = (8, 16, 32), inner: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        before = widths[0]
        for index, width in enumerate(widths, 1):
            strides = [1 if index == 1 else 2] + [1] * (blocks - 1)
            parts = []
            for stride in strides:
                parts.append(BasicBlock(before, width, stride))
                before = width
            setattr(self, f"layer{index}", nn.Sequential(*parts))
        self.fc = nn.Linear(before, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(functional.avg_pool2d(x, x.shape[-1]).view(x.size(0), -1))


class PlainVGG(nn.Sequential):
    """VGG without batch norm; its linear layers read flattened images."""

    def __init__(self, width: int = 8) -> None:
        def stage(inner: int, outer: int) -> list[nn.Module]:
            return [nn.Conv2d(inner, outer, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]

        super().__init__(
            *stage(3, width),
            *stage(width, 2 * width),
            *stage(2 * width, 2 * width),
            nn.Flatten(),
            nn.Linear(2 * width * 16, 24),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(24, 10),
        )


class UNet(nn.Module):
    """Classifier whose decoder concatenates the features of its encoder."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.down1, self.down2 = conv_bn(3, width), conv_bn(width, 2 * width)
        self.bottom = conv_bn(2 * width, 2 * width)
        self.up2, self.up1 = conv_bn(4 * width, width), conv_bn(2 * width, width)
        self.head = nn.Conv2d(width, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.down1(x)
        two = self.down2(functional.max_pool2d(one, 2))
        x = self.bottom(functional.max_pool2d(two, 2))
        x = self.up2(torch.cat([functional.interpolate(x, scale_factor=2, mode="nearest"), two], 1))
        x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        x = self.up1(torch.cat([x, one], 1))
        return self.head(x).mean([-2, -1])


class InvertedResidual(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int, expand: int) -> None:
        super().__init__()
        width = inner * expand
        parts: list[nn.Module] = []
        if expand != 1:
            parts += [nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU6(inplace=True)]
        parts += [nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False), nn.BatchNorm2d(width), nn.ReLU6()]
        parts += [nn.Conv2d(width, outer, 1, bias=False), nn.BatchNorm2d(outer)]
        self.conv = nn.Sequential(*parts)
        self.use_shortcut = stride == 1 and inner == outer

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.use_shortcut else self.conv(x)


class MobileNetV2(nn.Module):
    """Inverted residual blocks (Sandler 2018)."""

    def __init__(self) -> None:
        super().__init__()
        shapes = [(8, 8, 1, 1), (8, 12, 2, 3), (12, 12, 1, 3), (12, 16, 2, 3), (16, 16, 1, 3), (16, 16, 1, 3)]
        self.features = nn.Sequential(conv_bn(3, 8, 3, 2), *[InvertedResidual(*shape) for shape in shapes])
        self.last = conv_bn(16, 32, 1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.features(x))
        return self.classifier(functional.adaptive_avg_pool2d(x, (1, 1)).flatten(1))


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    n, channels, h, w = x.size()
    x = x.view(n, groups, channels // groups, h, w)
    return torch.transpose(x, 1, 2).contiguous().view(n, -1, h, w)


class ShuffleUnit(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(conv_bn(half, half, 1), conv_bn(half, half, 3, groups=half), conv_bn(half, half, 1))

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=1)
        return channel_shuffle(torch.cat((left, self.branch(right)), dim=1), 2)


class ShuffleNet(nn.Module):
    """Units that split, concatenate and shuffle channels (Ma 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 16, 3, 2)
        self.units = nn.Sequential(ShuffleUnit(16), ShuffleUnit(16))
        self.last = conv_bn(16, 24, 1)
        self.fc = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.last(self.units(self.stem(x))).mean([2, 3]))


class SqueezeExcite(nn.Module):
    """Gate of each channel, by linear layers (Hu 2018)."""

    def __init__(self, channels: int, reduction: int = 2) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, channels // reduction)
        self.fc2 = nn.Linear(channels // reduction, channels)

    def forward(self, x: Tensor) -> Tensor:
        n, channels, _, _ = x.size()
        y = functional.adaptive_avg_pool2d(x, 1).view(n, channels)
        y = torch.sigmoid(self.fc2(functional.relu(self.fc1(y)))).view(n, channels, 1, 1)
        return x * y.expand_as(x)


class SENet(nn.Module):
    """Squeeze-excite by linear layers and by convolutions, h-swish written out."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8, 3, 2)
        self.block1, self.se1 = conv_bn(8, 16), SqueezeExcite(16)
        self.block2, self.norm2 = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.reduce, self.expand = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.se1(self.block1(self.stem(x)))
        y = self.norm2(self.block2(x))
        y = y * functional.relu6(y + 3) / 6 + y * (functional.relu6(y + 3) / 6)
        gate = functional.hardsigmoid(self.expand(functional.silu(self.reduce(y.mean((2, 3), keepdim=True)))))
        return self.fc((x + gate * y).mean(3).mean(2))


class DenseNet(nn.Module):
    """Layers that read all earlier ones, batch norm before the convolution (Huang 2017)."""

    def __init__(self, growth: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        sizes = [8, 8 + growth, 8 + 2 * growth]
        self.norms = nn.ModuleList([nn.BatchNorm2d(size) for size in sizes])
        self.convs = nn.ModuleList([nn.Conv2d(size, growth, 3, padding=1, bias=False) for size in sizes])
        self.transition = nn.Sequential(nn.BatchNorm2d(8 + 3 * growth), nn.ReLU(), nn.Conv2d(8 + 3 * growth, 12, 1))
        self.pool = nn.AvgPool2d(2, 2)
        self.last = nn.BatchNorm2d(12)
        self.fc = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            features.append(conv(functional.relu(norm(torch.cat(features, 1)))))
        x = functional.relu_(self.last(self.pool(self.transition(torch.cat(features, 1)))))
        return self.fc(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


class GroupedNet(nn.Module):
    """Residual blocks with grouped convolutions (Xie 2017)."""

    def __init__(self, groups: int = 4) -> None:
        super().__init__()
        self.stem = conv_bn(3, 16, 3, 2)
        self.reduce, self.grouped = conv_bn(16, 24, 1), conv_bn(24, 24, 3, groups=groups)
        self.expand, self.norm = nn.Conv2d(24, 16, 1, bias=False), nn.BatchNorm2d(16)
        self.wider = conv_bn(16, 32, 3, 2, groups=groups)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = functional.relu(x + self.norm(self.expand(self.grouped(self.reduce(x)))))
        return self.fc(self.wider(x).mean((2, 3)))


class SplitNet(nn.Module):
    """Parts of written sizes with kernels of their own (MixNet, Tan 2019)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 16, 3, 2)
        self.small = nn.Conv2d(10, 10, 3, padding=1, groups=10)
        self.large = nn.Conv2d(6, 6, 5, padding=2, groups=6)
        self.mix = conv_bn(16, 16, 1)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        one, two = torch.split(self.stem(x), [10, 6], 1)
        return self.fc(self.mix(torch.cat([self.small(one), self.large(two)], 1)).mean((2, 3)))


class BranchingNet(nn.Module):
    """Control flow that depends on the values of the image: cannot be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv_bn(3, 8)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if x.mean() > 0.5:  # the place that messages name
            x = x * 2
        return self.fc(x.mean((2, 3)))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(n, tokens, width))


class ViT(nn.Module):
    """Transformer on patches (Dosovitskiy 2021): all channels are tied by attention and layer norm."""

    def __init__(self, width: int = 16, blocks: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 17, width) * 0.02)
        self.norms = nn.ModuleList([nn.LayerNorm(width) for _ in range(2 * blocks)])
        self.attentions = nn.ModuleList([Attention(width, 2) for _ in range(blocks)])
        self.mlps = nn.ModuleList(
            [nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)) for _ in range(blocks)]
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        for index, (attention, mlp) in enumerate(zip(self.attentions, self.mlps, strict=True)):
            x = x + attention(self.norms[2 * index](x))
            x = x + mlp(self.norms[2 * index + 1](x))
        return self.head(self.norm(x)[:, 0])


ZOO: dict[str, Callable[[], nn.Module]] = {
    "ds_cnn": lambda: DSCNN(inner=3, kernel=(3, 3)),
    "ds_cnn_speech": DSCNN,
    "resnet8": lambda: ResNet(1),
    "resnet14": lambda: ResNet(2),
    "plain_vgg": PlainVGG,
    "unet": UNet,
    "mobilenet_v2": MobileNetV2,
    "shufflenet": ShuffleNet,
    "senet": SENet,
    "densenet": DenseNet,
    "grouped": GroupedNet,
    "split": SplitNet,
}
"""Networks that can be traced and searched."""

REFUSED: dict[str, Callable[[], nn.Module]] = {"branching": BranchingNet, "vit": ViT}
"""Networks that cannot: the first is not traced, the second has nothing to search."""

SPEECH = (1, 1, 49, 10)


def example_of(name: str, batch: int = 2) -> Tensor:
    """Example input of a network."""
    shape = SPEECH if name == "ds_cnn_speech" else (1, 3, 32, 32)
    return torch.randn((batch, *shape[1:]), generator=torch.Generator().manual_seed(0))


def network(name: str, seed: int = 0) -> nn.Module:
    """A network with random weights and batch norm statistics that are not those of a new one, in evaluation mode."""
    torch.manual_seed(seed)
    made = {**ZOO, **REFUSED}[name]()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    return made.eval()
