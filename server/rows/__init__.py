"""The rows of one table on one shard: which exist, where they lie, what they hold."""
