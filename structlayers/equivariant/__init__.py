"""Equivariant tensor products of signals on the sphere."""

__all__: list[str] = []
