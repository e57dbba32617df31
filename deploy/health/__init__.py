"""Shards that do not serve: what can be done about them."""
