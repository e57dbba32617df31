"""Rows that a client keeps."""
