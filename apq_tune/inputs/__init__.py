"""What users hand in, read strictly: YAML and JSON, CSV, tensors, quantities with units, ranges of numbers."""
