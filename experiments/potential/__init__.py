"""Interatomic potentials on molecules: acetylacetone, 3BPA, revised MD17."""
