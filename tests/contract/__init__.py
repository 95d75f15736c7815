"""The contract of a datastore, run on every provider."""
