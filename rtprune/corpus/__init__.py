"""Ray: the workers that read units, the pool that feeds them, and the one driver behind every way of starting."""
