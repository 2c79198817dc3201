"""Programs for the threads of a GPU block, written once and run by two machines.

`machine` states the instructions; `mosaic` emits them inside a Mosaic GPU kernel;
`structlayers.testing.simt` executes them with NumPy, a whole block at a time, where no GPU is.
"""
