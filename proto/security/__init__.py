"""Who is who on the network: what callers show, how both sides speak TLS, and why a connection could not be had."""
