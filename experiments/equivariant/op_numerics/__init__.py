"""Errors of the Gaunt products, their symmetries, and what they refuse."""
