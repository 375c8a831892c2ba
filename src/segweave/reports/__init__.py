"""What a person looks at: pictures of masks and context, curves, and the HTML page of a run."""
