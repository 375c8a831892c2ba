"""Segmentation: all that labelling pixels needs. Its rooms have the same names as those of `segweave.detection`."""
