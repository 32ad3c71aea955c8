"""Integrations with Optuna and Ray: samplers, searchers, objectives and trials."""
