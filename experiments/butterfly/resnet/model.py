"""ResNet-18 for images of 32 x 32, with room for one more layer before the classifier.

He, Zhang, Ren, Sun, "Deep residual learning for image recognition", 2015, arXiv:1512.03385, in the
form usual for CIFAR: the stem is a 3 x 3 convolution of stride 1 without pooling.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from structlayers.butterfly import ButterflyLinear

CLASSES = 10
STAGES = ((1, 1), (2, 2), (4, 2), (8, 2))  # width over the stem's, stride of the first block


def _bpbp(n: int, **options: Any) -> nnx.Module:
    return ButterflyLinear(
        n,
        n,
        tied=True,
        num_blocks=2,
        alternating=False,
        permutation="bit_reversal",
        complex=True,
        **options,
    )


EXTRA: dict[str, Callable[..., nnx.Module] | None] = {
    "none": None,
    "dense": lambda n, **options: nnx.Linear(n, n, **options),
    "bpbp": _bpbp,
}
"""What can stand before the classifier."""


def _conv(inputs: int, outputs: int, size: int, stride: int, **options: Any) -> nnx.Conv:
    return nnx.Conv(
        inputs,
        outputs,
        (size, size),
        strides=stride,
        padding=size // 2,
        use_bias=False,
        kernel_init=nnx.initializers.variance_scaling(2.0, "fan_out", "normal"),
        **options,
    )


class BasicBlock(nnx.Module):
    """Two 3 x 3 convolutions and a shortcut, which is a 1 x 1 convolution where sizes change.

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        stride: of the first convolution.
        dtype: of the computation.
        rngs: random keys.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, *, dtype: Any, rngs: nnx.Rngs):
        options: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        self.conv1 = _conv(inputs, outputs, 3, stride, **options)
        self.norm1 = nnx.BatchNorm(outputs, momentum=0.9, **options)
        self.conv2 = _conv(outputs, outputs, 3, 1, **options)
        self.norm2 = nnx.BatchNorm(outputs, momentum=0.9, **options)
        self.shortcut = nnx.data(None)
        if stride != 1 or inputs != outputs:
            self.shortcut = nnx.Sequential(
                _conv(inputs, outputs, 1, stride, **options),
                nnx.BatchNorm(outputs, momentum=0.9, **options),
            )

    def __call__(self, x: jax.Array) -> jax.Array:
        """`(*B, H, W, inputs)` to `(*B, H / stride, W / stride, outputs)`."""
        y = nnx.relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return nnx.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet(nnx.Module):
    """Residual network with an optional layer and its ReLU between pooling and classifier.

    Args:
        extra: key of `EXTRA`.
        width: channels of the stem; 64 is the paper's.
        blocks: blocks in each of the four stages; 2 is ResNet-18.
        dtype: of the computation; parameters are float32.
        rngs: random keys.
    """

    def __init__(self, extra: str, *, width: int, blocks: int, dtype: Any, rngs: nnx.Rngs):
        options: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        self.stem = _conv(3, width, 3, 1, **options)
        self.norm = nnx.BatchNorm(width, momentum=0.9, **options)
        chain, channels = [], width
        for times, stride in STAGES:
            for index in range(blocks):
                chain.append(
                    BasicBlock(channels, times * width, stride if index == 0 else 1, **options)
                )
                channels = times * width
        self.blocks = nnx.List(chain)
        make = EXTRA[extra]
        # the head is small, and computes in float32
        self.extra = nnx.data(None) if make is None else make(channels, rngs=rngs)
        self.head = nnx.Linear(channels, CLASSES, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits `(*B, 10)` of images `(*B, 32, 32, 3)`."""
        x = nnx.relu(self.norm(self.stem(images)))
        for block in self.blocks:
            x = block(x)
        x = jnp.mean(x.astype(jnp.float32), axis=(-3, -2))
        if self.extra is not None:
            x = nnx.relu(self.extra(x))
        return self.head(x)
