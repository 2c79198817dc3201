"""Trainers by the config of a run, and the share of the peak that their speed is."""

import jax.numpy as jnp

from experiments.errors import CommandError
from experiments.language_model.config import LanguageModelRun
from experiments.language_model.flops import peak_flops, training_flops
from experiments.language_model.mesh import AXIS_RULES, SEQUENCE, batch_parts
from experiments.language_model.train import Optimizer, Trainer
from experiments.language_model.variants import attention_for, variant_model
from structlayers.models import LanguageModelConfig

TILE = 128  # the model has a multiple of so many words: meshes divide it, products fill their tiles


def make_trainer(config: LanguageModelRun, variant: str, vocabulary: int) -> Trainer:
    """The model, the mesh and the optimiser.

    Args:
        config: of the run.
        variant: name of the model.
        vocabulary: words.

    Raises:
        CommandError: the mesh does not fit the devices, or the batch not the mesh.
    """
    base = LanguageModelConfig(
        vocab_size=-(-vocabulary // TILE) * TILE,
        features=config.features,
        num_layers=config.layers,
        num_heads=config.heads,
        tie_embeddings=config.tie_embeddings,
        dtype=jnp.dtype(config.dtype),
        remat=config.remat,
        implementation=config.implementation,
        attention=config.attention or attention_for(config.dtype),
        axis_rules=AXIS_RULES,
    )
    mesh = config.mesh.make()
    parts = batch_parts(mesh) * config.accumulation
    if config.batch % parts:
        raise CommandError(
            f"batch must be a multiple of accumulation times mesh.data times mesh.fsdp, "
            f"{parts}; got {config.batch}"
        )
    model, pieces = variant_model(base, variant), mesh.shape[SEQUENCE]
    if config.context % pieces:
        raise CommandError(
            f"context must be a multiple of mesh.sequence = {pieces}, got {config.context}"
        )
    if pieces > 1 and set(model.layer_mixers) != {"gla"}:
        raise CommandError(
            f"mesh.sequence must be 1 for {variant}: only models of gla are split in time"
        )
    optimizer = Optimizer(
        learning_rate=config.learning_rate,
        final_learning_rate=config.final_learning_rate,
        warmup=config.warmup,
        steps=config.steps,
        weight_decay=config.weight_decay,
        beta1=config.beta1,
        beta2=config.beta2,
        clip=config.clip,
    )
    return Trainer(model, optimizer, mesh, config.loss_chunk, min(config.recent, config.steps))


def utilization(trainer: Trainer, context: int, tokens_per_second: float) -> dict[str, float]:
    """The share of all devices' peak that this speed is, as "mfu", where the peak is known.

    Args:
        trainer: the model and its mesh.
        context: tokens of a sequence.
        tokens_per_second: of training, on all devices together.
    """
    devices = trainer.mesh.devices.ravel()
    peak = peak_flops(devices[0].device_kind)
    if peak is None:
        return {}
    flops = training_flops(trainer.model, trainer.sizes["multiplied"], context)
    return {"mfu": tokens_per_second * flops / (peak * len(devices))}
