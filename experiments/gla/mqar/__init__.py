"""Multi-query associative recall: Yang et al. 2024, section 5.1, Figure 4."""
