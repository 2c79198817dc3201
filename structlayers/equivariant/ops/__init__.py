"""Public operations of the family: they check arguments and choose the implementation."""
