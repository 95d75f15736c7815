"""Inputs that nobody foresaw, for whatever reads what others have written."""
