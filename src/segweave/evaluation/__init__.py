"""Evaluation: how well a network labels the pixels of a split, or finds its objects."""
