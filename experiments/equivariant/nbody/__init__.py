"""Five charged particles: where they are after 1,000 steps, by networks of two tensor products."""
