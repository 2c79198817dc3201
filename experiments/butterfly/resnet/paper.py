"""The paper's own numbers for ResNet-18 on CIFAR-10, to compare with."""

# Test accuracy in percent and its spread, by what stands before the classifier: Dao et al. 2019,
# section 4.2 and appendix 8.
ACCURACY = {"none": (93.58, 0.15), "dense": (93.89, 0.19), "bpbp": (94.01, 0.09)}

EXTRA_LAYERS = tuple(ACCURACY)
