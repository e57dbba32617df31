"""The nodes that shards are on: drained, taken away, and servers started anew one after the other."""
