"""The end of a cluster, as the command line has it: what is lost with it, and who has to say so."""
