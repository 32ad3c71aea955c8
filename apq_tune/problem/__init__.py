"""Multi-objective problems: metrics by name, objectives, constraints, Pareto fronts and tabular benchmarks."""
