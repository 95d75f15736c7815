"""The same client for everybody: requests recorded as bytes beforehand, so that only worker and Redis differ."""
