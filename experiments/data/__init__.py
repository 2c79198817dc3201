"""Data sets of the experiments: found under $STRUCTLAYERS_DATA, checked, never downloaded."""
