"""What is asked for: metrics by name, objectives, limits, Pareto fronts, tables of measured candidates."""
