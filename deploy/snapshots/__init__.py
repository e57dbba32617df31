"""Snapshots of the running cluster: taken when somebody asks, or when logs are long."""
