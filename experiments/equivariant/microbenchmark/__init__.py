"""Times of tensor products by degree, raw and per degree of freedom."""
