"""What scripts/gpu_check.py looks at: one file a topic, each with a function that yields the rows of the table."""
