"""A run's candidates refined with real quantization-aware training: rounds of batches, then successive halving."""
