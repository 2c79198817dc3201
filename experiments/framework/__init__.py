"""Experiments that measure the project itself: import time, smoke presets."""
