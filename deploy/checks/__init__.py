"""What shows that all is well, or what is not: rows where they lie, a cluster against itself, the machine."""
