"""What every family shares: dispatch, precision, partitioning, argument checks, shape lists.

Nothing here knows a family, and nothing here imports one.
"""
