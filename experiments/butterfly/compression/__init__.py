"""Compression of a hidden layer by structured matrices: Dao et al. 2019, section 4.2, Table 1."""
