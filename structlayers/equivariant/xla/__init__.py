"""Portable implementations."""
