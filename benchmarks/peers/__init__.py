"""Other queues doing the same work, each in an environment of its own: they pin different versions of redis-py."""
