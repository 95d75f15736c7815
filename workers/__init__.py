"""Processes that serve the broker: the settling workers, the sweep, and what runs them on one machine."""
