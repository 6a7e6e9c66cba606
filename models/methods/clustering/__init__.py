"""Methods that predict clusters."""
