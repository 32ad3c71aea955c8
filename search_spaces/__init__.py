"""Search spaces (YAML) that ship with apq_tune; README.md beside this file documents the format."""
