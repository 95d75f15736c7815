"""Nine ways to break the broker, each a patch of production code, and the tests that must notice."""
