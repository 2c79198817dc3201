"""Gated linear attention on TPU: the state stays in VMEM while the chunks of a head pass.

- `products`: matrix products of values in registers, with derivatives of the same kind;
- `chunk`: the equations of one chunk;
- `memory`: tokens of a step of the grid, from the size of VMEM;
- `support`: what cannot be served, and why;
- `kernels`: the two `pl.pallas_call`s, forward and backward;
- `apply`: the differentiable function behind the public operation.

Nothing is imported here: what cannot run Pallas asks `support` without importing it.
"""
