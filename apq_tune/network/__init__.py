"""Description of networks for every kind of search space: named layers as functions of few genes, and their edges."""
