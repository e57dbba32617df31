"""What the coordinator decides, as programs that yield effects. Pure: the simulator runs all of it."""
