"""The long-running factory: waits for jobs, runs a command for each, and stops without losing any."""

from broker.agent.agent import Agent, End, Limits
from broker.agent.claiming import Terms
from broker.agent.registering import IdleEnough, Registering

__all__ = ["Agent", "End", "IdleEnough", "Limits", "Registering", "Terms"]
