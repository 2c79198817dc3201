"""Recovery of fast transforms from their matrices (Dao et al. 2019, section 4.1, Figure 3)."""
