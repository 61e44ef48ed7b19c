"""Reserved for the shuffles: how data changes hands between workers."""
