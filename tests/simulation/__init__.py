"""One seed decides everything: the production code in a world of simulated clocks, Redis, store and network."""
