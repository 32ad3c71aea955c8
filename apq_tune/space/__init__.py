"""What can be chosen: search spaces, candidates, their encodings and notations."""
