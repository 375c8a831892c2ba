"""What networks cost, beside what the papers print."""
