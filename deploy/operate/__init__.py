"""What the command line does to clusters: find, look at, change and end them."""
