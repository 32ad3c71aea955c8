"""Models of users: torch modules as graphs, graphs as torch modules."""
