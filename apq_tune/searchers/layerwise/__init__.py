"""Reinforcement learning that decides genes layer by layer: AMC (He 2018) for channels, HAQ (Wang 2019) for bits."""
