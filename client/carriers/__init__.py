"""How requests travel: gRPC, and the row lane beside it."""
