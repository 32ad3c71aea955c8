"""Reports: progress, tables and pictures."""
