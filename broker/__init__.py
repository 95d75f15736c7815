"""Work claimed exactly once: messages, rules, coordinator and clients."""
