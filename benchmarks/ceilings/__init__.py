"""What the machine can do at most from this Python: the ceilings over every other row."""
