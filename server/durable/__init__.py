"""The write-ahead log of a shard: what it acknowledged survives its process, or its machine."""
