"""Detection: all that finding objects needs. Its rooms have the same names as those of `segweave.segmentation`."""
