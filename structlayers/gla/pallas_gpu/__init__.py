"""Gated linear attention on Hopper GPUs: weights and scores of all chunks first, then the states.

- `layout`: sizes, and where the values of a chunk lie in device and shared memory;
- `chunk`: weighted queries and keys of a chunk, which two of the programs begin with;
- `prepare`, `recurrent`, `gradient`: the programs of the three kernels, for `_core.simt`, the
  second with its `recurrent_plan` and `recurrent_block`, the last with its `gradient_layout`,
  `gradient_states` and `gradient_products`;
- `calls`: the kernels on arrays;
- `step_plan`, `step_program`, `step`, `step_support`: the same for one token, a kernel of its own;
- `support`: what cannot be served, and why;
- `apply`: the differentiable function behind the public operation.

Nothing is imported here: what cannot run Pallas asks `support` without importing it.
"""
