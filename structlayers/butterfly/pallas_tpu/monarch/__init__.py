"""Monarch products on TPU whose blocks are no butterfly factors of whole registers.

- `groups`: how blocks are packed for the matrix unit, and which shapes fit; imports no Pallas;
- `weights`: blocks as packed matrices, their columns in the order that the kernels want;
- `exchange`: values of a tile that change registers;
- `kernels`: the two `pl.pallas_call`s, forward and backward;
- `batching`: `jax.vmap` of them;
- `apply`: the differentiable product, and the function behind the public operation.
"""
