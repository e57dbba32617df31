"""What runs shard servers: threads, processes, Ray actors."""
