"""Walsh-Hadamard products: a butterfly whose factors are all `[[1, 1], [1, -1]]`, without weights.

Letters: `N = 2**M` transform size, `R` radix of a merged group of factors, `K` sign diagonals.
"""
