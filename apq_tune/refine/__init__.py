"""Refinement of a run by quantization-aware training: rounds of batches, then successive halving."""
