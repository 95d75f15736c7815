"""The long-running factory: waits for jobs, runs a command for each, and stops without losing any."""

from broker.agent.agent import Agent, End, Limits
from broker.agent.claiming import Terms

__all__ = ["Agent", "End", "Limits", "Terms"]
