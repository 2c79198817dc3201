"""Portable implementations: Fourier transforms, Krylov scans, products with whole matrices."""
