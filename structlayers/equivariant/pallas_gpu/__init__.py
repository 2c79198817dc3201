"""Products of signals on the sphere on Hopper GPUs, in one kernel: no grid in device memory.

- `groups`: the order of a row's coefficients in the operands of the tensor cores;
- `plan`: sizes of a launch, and where things lie in shared memory;
- `tables`: harmonics of the grid's points as operands of the tensor cores;
- `program`: the program of the kernel, for `_core.simt`, with its `arithmetic` and `staging`;
- `split`: problems that take several launches;
- `calls`: the kernel on arrays;
- `support`: what cannot be served, and why;
- `apply`: the differentiable function behind the public operation.

Nothing is imported here: what cannot run Pallas asks `support` without importing it.
"""
