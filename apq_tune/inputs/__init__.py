"""Strict readers of user input: YAML and JSON, CSV, checkpoints, quantities with units, and ranges of settings."""
