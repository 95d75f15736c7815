"""The Cosmos provider against a real emulator, and against the faults a network adds."""
