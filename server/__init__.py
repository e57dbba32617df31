"""A shard server: rows, optimizers, ledger, and a thin gRPC shell around them."""
