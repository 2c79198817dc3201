"""Kernels for Hopper GPUs; kernels.md in the family's folder says what they reach and why."""
