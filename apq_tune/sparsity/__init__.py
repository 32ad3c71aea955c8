"""Sparse weights: pruning during fine-tuning, trained gates, sizes of sparse layers, and when trainings may branch."""
