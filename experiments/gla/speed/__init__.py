"""Speed of gated linear attention: Yang et al. 2024, section 3, Figure 2, and decoding."""
