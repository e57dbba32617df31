"""`rowloom bench`: what is measured, beside what, and how."""
