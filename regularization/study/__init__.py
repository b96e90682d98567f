"""Studies: many runs that differ in regularization and seed, and what can be said of them."""
