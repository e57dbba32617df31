"""`rowloom demo`: word embeddings trained on a cluster that grows in the middle."""
