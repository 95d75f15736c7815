"""Measurements, run by hand: each prints its machine, its versions and its command."""
