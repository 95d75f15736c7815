"""Our own rows: the whole product, from its public client to its store."""
