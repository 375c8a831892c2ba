"""Evaluation: how well a network labels the pixels of a split."""
