"""Networks that really run: weight sharing, quantization, training, evaluation. Needs torch."""
