"""Figures that need a set-up of their own: conflicts, renewals, idleness, starts, a million jobs."""
