"""The checker of histories, itself checked."""
