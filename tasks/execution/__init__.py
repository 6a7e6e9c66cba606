"""A run from checks to gate: where it runs, and stage by stage."""
