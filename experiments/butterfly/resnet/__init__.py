"""ResNet-18 with a butterfly layer before its classifier: Dao et al. 2019, section 4.2."""
