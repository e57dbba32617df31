"""Snapshots as they lie in storage: what is in the files, and how they are read without a cluster.

It is here because all three sides need it and none may import another: shards write and restore, the client reads, the
command line lists, verifies and compares. What writes is `server/snapshots/`.
"""
