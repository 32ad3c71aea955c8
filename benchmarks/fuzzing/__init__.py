"""Wrong inputs of four kinds for ``fuzz_inputs.py``: damaged files, odd images, odd layouts, odd values of options."""
