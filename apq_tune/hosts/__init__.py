"""Optuna and Ray: samplers, searchers, objectives, trials."""
