"""A finished model as files that other runtimes run, proven equal."""
