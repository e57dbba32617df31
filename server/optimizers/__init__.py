"""What a push does to a row: update rules, their kernels, and the rates at which they run."""
