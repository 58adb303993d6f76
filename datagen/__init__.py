"""How data is made: sources, stages and the engine that runs them over shards."""
