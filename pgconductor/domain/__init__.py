"""Values and pure functions: what the engine is about, without a database."""
