"""Snapshots are written here, file by file; what is in the files, and how they are read, is `proto/snapshots/`."""
