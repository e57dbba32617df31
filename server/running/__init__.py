"""A shard server as the process that it is: what it is told, its memory, the threads of its host, and its end."""
