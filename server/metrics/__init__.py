"""What a process counts, and how others read it: counters, times, and a page over HTTP."""
