"""`make demo`: one pay day of a thousand creators while the flag flips and processes die."""
