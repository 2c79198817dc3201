"""Multi-query associative recall with gated linear attention, RetNet and softmax attention.

Pairs of keys and values, then every key once more, whose value is to be named: 256 tokens with 16
pairs and 512 with 64. Language models of two blocks and two heads, sizes 64 to 512, trained on
100,000 examples at four learning rates side by side until one has 99 % on 1000 further examples or
64 epochs are over; reported on 3000 others. Parts are run by --tasks, --mixers and --features, each
stored with --variant. Sequences, sizes, rates and epochs are those of the released code of Arora et
al. (github.com/HazyResearch/zoology), whose blocks have no channel mixer; these have SwiGLU.

Paper: Yang et al. 2024, arXiv:2312.06635, section 5.1, Figure 4 (curves, no numbers); the task is
that of Arora et al. 2023, arXiv:2312.04927, section 4.
Expected: softmax attention solves every task; gated linear attention is at no size behind RetNet.
Hardware: one H200. Minutes of a network for all 64 epochs, none measured: bytes that the products,
reductions and kernels of a step read and write, counted in its program, at 3 TB/s, plus the times
in structlayers/gla/kernels.md. A network that reaches 99 % is done sooner.

    512/64       d = 64   128   256   512     256/16  d = 64   128   256   512
    gla               8    11    18    36                  3     5     8    17
    retention         8    13    25    56                  4     6    12    27
    softmax           6    10    17    34                  2     4     7    15

`--epochs 16` is a quarter of that, with a learning rate that has fallen to 0 by then. First what
the curves are about, 512/64 at d = 128, then 256/16 at 64 and 128, then larger d, which should stop
early. At d = 64 the kernels want `--implementation pallas_gpu`: heads of 16 and 32 features are
padded to 64, still half of the bytes of XLA's chunks. Elsewhere it is what runs by itself, so that
all parts can have it, and be joined.

"fla" among the mixers is a control, not one of the three: fla's GatedLinearAttention in a PyTorch
model of the same shape, from the same parameters, on the same batches (experiments/gla/README.md).
It needs torch and flash-linear-attention. Run at 512/64, d = 128. Goal: gated linear attention is
at no size behind it.
Command: python -m experiments run configs/gla/mqar.py
Of a part: python -m experiments run configs/gla/mqar.py --tasks 512/64 --features 128 --epochs 16
    --implementation pallas_gpu --checkpoint-seconds 300 --variant t512_d128_e16 --store
Of the control: python -m experiments run configs/gla/mqar.py --tasks 512/64 --features 128
    --epochs 16 --mixers fla --variant t512_d128_fla --store
"""

from experiments.gla.mqar.config import RecallConfig


def get_config() -> RecallConfig:
    """Both tasks, three mixers, four sizes."""
    return RecallConfig()
