"""Portable implementations of the family."""
