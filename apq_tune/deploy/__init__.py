"""From a found network to a file that runs: integer programs, ONNX, C, and latency that was measured."""
