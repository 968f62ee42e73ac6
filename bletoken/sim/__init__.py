"""What stands in for the world: a virtual radio and a local MODE, for tests, demos and a developer's desk."""
