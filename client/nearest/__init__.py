"""Pulls that a standby may answer: how old rows may be, and which server is asked."""
