"""Inputs for ``fuzz_inputs.py``: damaged files, unusual images, unusual folder layouts and unusual option values."""
