"""The main job on one machine: a fleet races, a factory dies, another comes back too late."""

from workers.demo.run import run_demo

__all__ = ["run_demo"]
