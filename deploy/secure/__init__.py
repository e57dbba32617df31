"""What `security` of a deploy config names: made here, and checked before a cluster starts."""
