"""Emits a block's program as MLIR and PTX inside a Mosaic GPU kernel.

Everything here stands on `plgpu.inline_mgpu` and Mosaic GPU's own helpers, which change from
release to release: only the modules of this folder name them.
"""

from structlayers._core.simt.mosaic.kernel import MosaicMachine, launch

__all__ = ["MosaicMachine", "launch"]
