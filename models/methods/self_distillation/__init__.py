"""Methods that learn from a copy of themselves, without negatives."""
