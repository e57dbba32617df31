"""One call, from arrays to arrays: check, route, requests, exchange, assemble. Pure: the simulator runs all of it."""
