"""The proof: whatever comes at the same moment, one wins, and the store says the same as the answers."""
