"""What a person looks at: pictures of masks, objects and context, curves, and the HTML page of a run."""
