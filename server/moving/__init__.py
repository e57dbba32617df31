"""Rows on their way from the shards of one layout to those of the next."""
