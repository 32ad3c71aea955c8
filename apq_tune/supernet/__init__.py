"""PyTorch networks: weight-sharing supernets, quantization, training and evaluation."""
