"""Stores that are broken on purpose: a safety test counts only if it fails on one of them."""
