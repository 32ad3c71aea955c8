"""From a search space to finetuned networks, in stages that are done once and resumed where they stopped."""
