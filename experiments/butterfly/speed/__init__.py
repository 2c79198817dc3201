"""Speed of the butterfly product: Dao et al. 2019, section 4.3, Figure 4."""
