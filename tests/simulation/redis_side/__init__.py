"""As much of a Redis server as the broker uses, in this process and on the simulated clock.

tests/simulation/test_redis_side.py compares it with a real Valkey, command by command and script by script.
"""
