"""Products of signals on the sphere on Hopper GPUs, in one kernel: no grid in device memory.

- `groups`: the order of a row's coefficients in the operands of the tensor cores;
- `rows`: where the rows of a tile lie in shared memory;
- `plan`: sizes of a launch, and where things lie in shared memory;
- `tables`: harmonics of the grid's points as operands of the tensor cores;
- `program`: the program of the kernel, for `_core.simt`, with its `arithmetic` and `staging`;
- `split`: problems that take several launches;
- `calls`: the kernel on arrays;
- `support`: what cannot be served, and why;
- `apply`: the differentiable functions behind the public operations.

kernels.md says what it reaches and why. Nothing is imported here: what cannot run Pallas asks
`support` without importing it.
"""
