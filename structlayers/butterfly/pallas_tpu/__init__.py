"""Butterfly products on TPU: a tile of whole rows stays in VMEM while all factors act on it.

- `chain`: which products a chain of factors becomes, and in how many passes over the tile;
- `memory`: rows of a tile, from the size of VMEM; what cannot be served, and why;
- `values`: real numbers, and complex ones as two planes, in one algebra;
- `passes`: one pass over a tile, and its gradient;
- `kernels`: the two `pl.pallas_call`s, forward and backward;
- `apply`: the differentiable product of a chain with a batch;
- `multiply`: the functions behind the public operations.

Nothing is imported here: what cannot run Pallas asks `memory` without importing it.
"""
