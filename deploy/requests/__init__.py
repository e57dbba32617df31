"""What the coordinator is asked over the network: who answers it, and the parts that do the work."""
