"""Differentiable search: a distribution over the values of each gene, and gates through which its gradient flows."""
