"""A second server for a shard, which has all that the first one has, and takes its place when that ends."""
