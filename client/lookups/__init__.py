"""What lookups and pulls by bag are made of: bags of ids, how rows are combined, rows of several tables as one."""
