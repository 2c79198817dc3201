"""Operations of a language model, and the share of a device's peak that training reaches."""

from structlayers.models import LanguageModelConfig

# Dense bfloat16 operations/s of one device, from the makers' data sheets, by device_kind.
PEAKS = {
    "NVIDIA A100": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 836e12,
    "NVIDIA H100": 989.4e12,
    "NVIDIA H200 NVL": 836e12,
    "NVIDIA H200": 989.4e12,
    "NVIDIA B200": 2250e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU7x": 2307e12,
}


def peak_flops(device_kind: str) -> float | None:
    """Dense bfloat16 operations/s of a device; None where none is known, as for CPUs.

    Example:
        >>> peak_flops("NVIDIA H200"), peak_flops("cpu")
        (989400000000000.0, None)
    """
    return next((peak for name, peak in PEAKS.items() if device_kind.startswith(name)), None)


def mixer_flops(config: LanguageModelConfig, mixer: str, context: int) -> float:
    """Operations of mixing a token with those before it, without projections.

    GLA and retention: `4 H K V`, two for the outer product and two for the output from the state;
    not what chunks add. Softmax: `2 T d`, two products with half of the T tokens on average.
    """
    if mixer == "softmax":
        return 2.0 * context * config.features
    # what each mixer takes for None
    keys, values = {
        "gla": (config.features // 2, config.features),
        "retention": (config.features, 2 * config.features),
    }[mixer]
    keys = keys if config.key_features is None else config.key_features
    values = values if config.value_features is None else config.value_features
    return 4.0 * keys * values / config.num_heads


def forward_flops(config: LanguageModelConfig, multiplied: int, context: int) -> float:
    """Operations of a token in a forward pass.

    Args:
        config: of the model.
        multiplied: parameters that every token is multiplied with: all matrices, the output layer
            included, the look-up of embeddings not.
        context: T, tokens of a sequence.

    Example:
        >>> config = LanguageModelConfig(vocab_size=8, features=4, num_layers=1, mixer="softmax")
        >>> forward_flops(config, 100, 10)
        280.0
    """
    mixing = sum(mixer_flops(config, mixer, context) for mixer in config.layer_mixers)
    return 2.0 * multiplied + mixing


def training_flops(config: LanguageModelConfig, multiplied: int, context: int) -> float:
    """Operations of a token in a step of training: three forward passes, nothing made again.

    References:
        Chowdhery et al., "PaLM", 2022, arXiv:2204.02311, appendix B.
    """
    return 3 * forward_flops(config, multiplied, context)
