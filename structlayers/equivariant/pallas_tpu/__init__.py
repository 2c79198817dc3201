"""Products of signals on the sphere on TPUs, in one kernel: the grid stays in VMEM.

- `arithmetic`: float32 as sums of bfloat16, and products of those as one matrix product;
- `tables`: harmonics of half a grid as the left operands of the matrix unit;
- `memory`: rows of a step, from the size of VMEM;
- `support`: what cannot be served, and why;
- `kernels`: the `pl.pallas_call`;
- `apply`: the differentiable functions behind the public operations.

Nothing is imported here: what cannot run Pallas asks `support` without importing it.
"""
