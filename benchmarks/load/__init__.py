"""What drives a contestant. Standard library only: it runs in each peer's own environment too."""
