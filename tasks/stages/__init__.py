"""The four stages that DVC runs, and their frame."""
