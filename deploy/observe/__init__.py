"""What an operator sees of clusters: metrics, logs, and screens of both."""
