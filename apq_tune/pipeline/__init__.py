"""Runs: stages from a search space to finetuned networks, each done once and resumed where it was interrupted."""
