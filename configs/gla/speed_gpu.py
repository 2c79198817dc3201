"""Speed of gated linear attention on a GPU beside softmax attention, and of decoding.

bfloat16 with float32 log gates: heads of the paper's models (128/256 and 256/512 features of keys
and values), the six shapes of fla's registry, one long sequence alone, and one token; the product
alone and with all gradients. The chosen implementation is the one that the op runs by itself.
Beside it stand XLA's form, causal attention by cuDNN and by XLA at equal d, and, by --candidates
fla, the kernels of flash-linear-attention 0.6.0, which tune for minutes at every shape. Shares are
of the bytes in experiments/gla/speed/floors.py at the rate of a copy in the same run. A part is
measured by --shapes, --modes and --candidates.

Paper: Yang et al. 2024, arXiv:2312.06635, section 3, Figure 2: faster than FlashAttention-2 from
1000 tokens on; curves, no times. The bounds are the project's own for one H200.
Expected: 60 % of the floor forward, 50 % with gradients; 2.5 and 2 times as fast as fla. One token
has no bound here, where its state is copied: decode_speed.py has it in place.
Time: 10 minutes on one H200 without fla, compilation included (estimated).
Command: python -m experiments run configs/gla/speed_gpu.py
"""

from experiments.gla.speed.config import SpeedConfig

_SMALL, _LONG, _LARGE = (
    f"gla_b8_{shape}_bfloat16"
    for shape in ("t2048_h4_k128_v256", "t8192_h4_k128_v256", "t8192_h4_k256_v512")
)
_ALONE = "gla_b1_t16384_h4_k128_v256_bfloat16"
_REGISTRY = tuple(
    f"gla_b{batch}_t{time}_h{heads}_k{size}_v{size}_bfloat16"
    for batch, time, heads, size in (
        (1, 8192, 96, 128),
        (2, 16384, 16, 128),
        (4, 2048, 16, 128),
        (4, 4096, 64, 128),
        (8, 2048, 32, 256),
        (8, 1024, 8, 64),
    )
)
# 33, 67 and 268 MB of states read and written
_STEPS = tuple(
    f"step_b{batch}_h4_k{size}_v{2 * size}_bfloat16"
    for batch, size in ((8, 256), (64, 128), (64, 256))
)
_TIMES = {
    f"{_SMALL}/forward": 52.0,
    f"{_LONG}/forward": 208.0,
    f"{_LARGE}/forward": 455.0,
    f"{_SMALL}/forward_backward": 234.0,
    f"{_LONG}/forward_backward": 940.0,
    f"{_LARGE}/forward_backward": 2400.0,
}
_SHARES = {
    f"{_SMALL}/forward": 0.60,
    f"{_LONG}/forward": 0.60,
    f"{_LARGE}/forward": 0.55,
    f"{_SMALL}/forward_backward": 0.50,
    f"{_LONG}/forward_backward": 0.50,
    f"{_LARGE}/forward_backward": 0.50,
    f"{_ALONE}/forward": 0.40,
    f"{_ALONE}/forward_backward": 0.40,
}
_BESIDE = (_SMALL, _LONG, _LARGE, *_REGISTRY)


def get_config() -> SpeedConfig:
    """All shapes, with the lines for one H200."""
    return SpeedConfig(
        experiment="speed_gpu",
        shapes=(*_BESIDE, _ALONE, *_STEPS),
        timer="profiler",
        at_least=(
            *((f"{key}/share", share) for key, share in _SHARES.items()),
            *((f"{shape}/forward/over_fla", 2.5) for shape in _BESIDE),
            *((f"{shape}/forward_backward/over_fla", 2.0) for shape in _BESIDE),
            *(
                (f"{shape}/{mode}/over_cudnn", 1.0)
                for shape in _BESIDE
                if "_t1024_" not in shape
                for mode in ("forward", "forward_backward")
            ),
        ),
        at_most=(
            *((f"{key}/us", bound) for key, bound in _TIMES.items()),
            *(
                (f"{shape}/forward_backward/temporaries_over_states", 1.0)
                for shape in (_SMALL, _LONG, _LARGE)
            ),
        ),
    )
