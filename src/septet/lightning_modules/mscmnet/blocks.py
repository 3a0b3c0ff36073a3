"""Building blocks: stems, non-local attention, the multi-scale correlation stage (MIMB), GeM pooling, trunks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def at_least_float32(x: Tensor) -> Tensor:
    """Half precision widened, wider types unchanged."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def nearest_divisor(number: int, wanted: int) -> int:
    """The divisor of ``number`` nearest to ``wanted``; the smaller of two."""
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    return min(divisors, key=lambda d: (abs(d - wanted), d))


class NonLocal(nn.Module):
    """x + BN(W((theta(x)^T phi(x) / positions) g(x))), without a softmax; starts as the identity.

    The affinity grows with the cube of its input, so it is computed in at least float32.

    Args:
        channels: of the input.
        inner: of theta, phi and g; None = half the channels (MSCMNet), AGW's code has 1.
    """

    def __init__(self, channels: int, inner: int | None = None) -> None:
        super().__init__()
        inner = channels // 2 if inner is None else inner
        self.theta, self.phi, self.g = (nn.Conv2d(channels, inner, 1) for _ in range(3))
        self.out = nn.Conv2d(inner, channels, 1)
        self.bn = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.bn.weight)
        nn.init.zeros_(self.bn.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)`` to the same shape."""
        theta, phi, g = (at_least_float32(f(x)).flatten(2) for f in (self.theta, self.phi, self.g))
        with torch.autocast(x.device.type, enabled=False):
            y = (g @ phi.transpose(1, 2) / g.shape[2]) @ theta
        out: Tensor = self.bn(self.out(y.unflatten(2, x.shape[2:]).to(x.dtype)))
        return x + out


class ChannelAttention(nn.Module):
    """Multi-head attention whose tokens are channels and whose features are positions.

    Args:
        width: length of a token, ``H * W``.
        heads: number of heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def _split(self, x: Tensor, part: int) -> Tensor:
        width = x.shape[2]
        rows = slice(part * width, (part + 1) * width)
        y = F.linear(x, self.in_proj_weight[rows], self.in_proj_bias[rows])
        split: Tensor = y.unflatten(2, (self.heads, -1)).transpose(1, 2)
        return split

    def weights(self, pattern: Tensor) -> Tensor:
        """Attention between channels ``(N, heads, C, C)``, rows sum to 1; for pictures."""
        q, k = self._split(pattern, 0), self._split(pattern, 1)
        share: Tensor = (q @ k.transpose(2, 3) / q.shape[3] ** 0.5).softmax(3)
        return share

    def forward(self, pattern: Tensor, values: Tensor) -> Tensor:
        """Queries and keys from ``pattern``, values from ``values``, both ``(N, C, L)``."""
        q, k, v = self._split(pattern, 0), self._split(pattern, 1), self._split(values, 2)
        y: Tensor = self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return y


class MIMBStage(nn.Module):
    """One stage of the multi-scale information correlation block: a shallow map says which channels attend.

    There is no residual around the stage, as released; ``QuadStreamNet(residual=True)`` adds one.

    Args:
        channels: of the deep map.
        grid: its height and width.
        source_channels: of the shallow map; None for self-attention.
        source_stride: its resolution over the grid's, 4 or 2.
        head_dim: wanted head width; the nearest divisor of the grid's positions is taken.
        gamma: weight of the shallow map added to the deep one.

    Raises:
        ValueError: ``source_stride`` neither 4 nor 2.
    """

    def __init__(
        self,
        channels: int,
        grid: tuple[int, int],
        *,
        source_channels: int | None = None,
        source_stride: int | None = None,
        head_dim: int = 9,
        gamma: float = 0.1,
    ) -> None:
        super().__init__()
        narrow, length = channels // 4, grid[0] * grid[1]
        self.grid, self.gamma = tuple(grid), gamma
        self.narrow = nn.Conv2d(channels, narrow, 1)
        self.broad = nn.Conv2d(narrow, channels, 1)
        self.ln_1, self.ln_2 = nn.LayerNorm(length), nn.LayerNorm(length)
        self.attn = ChannelAttention(length, length // nearest_divisor(length, head_dim))
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(length, 4 * length), "c_proj": nn.Linear(4 * length, length)})
        self.down: nn.Conv2d | None = None
        self.ln_source: nn.LayerNorm | None = None
        if source_channels is not None:
            if source_stride not in (2, 4):
                raise ValueError(f"source_stride={source_stride}: a shallow map has 4 or 2 times the grid's resolution")
            kernel, pad = (6, 2) if source_stride == 4 else (4, 1)
            self.down = nn.Conv2d(source_channels, narrow, kernel, stride=source_stride, padding=pad)
            self.ln_source = nn.LayerNorm(length)

    def tokens(self, x: Tensor, source: Tensor | None) -> tuple[Tensor, Tensor]:
        """Pattern and value tokens ``(N, C/4, H*W)``, at least float32 out of the norms."""
        z = _norm(self.ln_1, self.narrow(x).flatten(2))
        if self.down is None or self.ln_source is None:
            return z, z
        if source is None:
            raise ValueError("this stage needs the shallow map `source`")
        pattern = _norm(self.ln_source, self.down(source).flatten(2))
        return pattern, z + self.gamma * pattern

    def forward(self, x: Tensor, source: Tensor | None = None) -> Tensor:
        """``(N, C, H, W)`` and the shallow map ``(N, Cs, sH, sW)`` to ``(N, C, H, W)``."""
        if tuple(x.shape[2:]) != self.grid:
            raise ValueError(f"the map is {tuple(x.shape[2:])}, this stage was built for {self.grid}: fix image_size")
        pattern, z = self.tokens(x, source)
        z = z + self.attn(pattern, z)
        hidden = self.mlp["c_fc"](_norm(self.ln_2, z))
        z = z + self.mlp["c_proj"](hidden * torch.sigmoid(1.702 * hidden))
        out: Tensor = self.broad(z.unflatten(2, self.grid))
        return out


def _norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """LayerNorm computed in at least float32, whatever autocast says."""
    with torch.autocast(x.device.type, enabled=False):
        out: Tensor = norm(at_least_float32(x))
    return out


def gem(x: Tensor, p: float = 3.0) -> Tensor:
    """Generalised mean (mean(x^p) + 1e-12)^(1/p) over positions, at least float32: ``(N, C, H, W)`` to ``(N, C)``."""
    with torch.autocast(x.device.type, enabled=False):
        return (at_least_float32(x).pow(p).mean((2, 3)) + 1e-12).pow(1 / p)


class ResNetTrunk(nn.Module):
    """ResNet-50 after the stem, last stage stride 1, non-local blocks in layer2 (last two) and layer3 (last three).

    Args:
        inner: inner channels of the non-local blocks, None = half.
    """

    stem_channels, channels, out_channels, reduction = 64, 1024, 2048, 16
    sources = ((64, 4), (256, 4), (512, 2))

    def __init__(self, inner: int | None = None) -> None:
        super().__init__()
        from torchvision.models import resnet50

        base = resnet50(weights=None)
        base.layer4[0].conv2.stride = (1, 1)
        base.layer4[0].downsample[0].stride = (1, 1)
        self.layer1, self.layer2, self.layer3, self.layer4 = base.layer1, base.layer2, base.layer3, base.layer4
        self.nonlocal2 = nn.ModuleList(NonLocal(512, inner) for _ in range(2))
        self.nonlocal3 = nn.ModuleList(NonLocal(1024, inner) for _ in range(3))

    @staticmethod
    def stem() -> nn.Sequential:
        """A stem (QFE): conv 7x7/2, BN, ReLU, max-pool 3x3/2."""
        conv = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        return nn.Sequential(conv, nn.BatchNorm2d(64), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1))

    def maps(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs of layer1, layer2, layer3."""
        x1 = self.layer1(x)
        x2 = _with_blocks(self.layer2, self.nonlocal2, x1)
        return x1, x2, _with_blocks(self.layer3, self.nonlocal3, x2)

    def pool(self, x: Tensor) -> Tensor:
        """layer4 and GeM: ``(N, 2048)``."""
        return gem(self.layer4(x))


def _with_blocks(layer: nn.Module, blocks: nn.ModuleList, x: Tensor) -> Tensor:
    """A ResNet stage whose last units are each followed by a non-local block."""
    units = list(layer.children())
    first = len(units) - len(blocks)
    for i, unit in enumerate(units):
        x = unit(x)
        if i >= first:
            x = blocks[i - first](x)
    return x


class MicroTrunk(nn.Module):
    """A small trunk for CPUs: same interface, 1/8 resolution, feature = means of the upper and the lower half.

    Args:
        inner: unused; the trunk has no non-local blocks.
    """

    stem_channels, channels, out_channels, reduction = 12, 48, 144, 8
    sources = ((12, 4), (24, 4), (48, 2))

    def __init__(self, inner: int | None = None) -> None:
        super().__init__()
        del inner
        self.layer1 = _unit(12, 24, 1)
        self.layer2 = nn.Sequential(_unit(24, 24, 2), _unit(24, 48, 1))
        self.layer3 = _unit(48, 48, 2)
        self.layer4 = _unit(48, 72, 1)

    @staticmethod
    def stem() -> nn.Sequential:
        """Conv 3x3/2, BN, ReLU."""
        return _unit(3, 12, 2)

    def maps(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs of the three stages."""
        x1 = self.layer1(x)
        x2 = self.layer2(x1)
        return x1, x2, self.layer3(x2)

    def pool(self, x: Tensor) -> Tensor:
        """``(N, 144)``."""
        upper, lower = at_least_float32(self.layer4(x)).chunk(2, 2)
        return torch.cat([upper.mean((2, 3)), lower.mean((2, 3))], 1)


def _unit(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
