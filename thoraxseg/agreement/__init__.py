"""Agreement of masks, from files to reports: with a reference, between observers, over cohorts, and its statistics."""
