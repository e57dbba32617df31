"""Who may do what: rights, the file of tokens, and what a server asks of whoever connects."""
