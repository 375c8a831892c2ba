"""Training: the run's configuration, the Lightning modules, and what happens around them."""
