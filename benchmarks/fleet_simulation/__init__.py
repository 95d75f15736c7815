"""A fleet of any size in simulated time: production's lease rules, queues that take as long as was measured."""
