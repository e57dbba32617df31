"""Finding a cluster: where it may be, who is asked, and what is said while it does not answer."""
