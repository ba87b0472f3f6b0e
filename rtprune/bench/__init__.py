"""What things cost: measurements that `rtprune bench` runs. They live here and never in timed tests."""
