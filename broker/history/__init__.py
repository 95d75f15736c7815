"""Histories of clients, and the checker that decides whether a sound broker can have answered like that."""

from broker.history.checker import Log, check, verdict
from broker.history.record import Record
from broker.history.recorder import Recorder
from broker.history.report import Report, Rule, Totals, Violation

__all__ = ["Log", "Record", "Recorder", "Report", "Rule", "Totals", "Violation", "check", "verdict"]
