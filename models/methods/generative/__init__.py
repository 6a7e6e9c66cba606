"""Methods that rebuild images or parts of them."""
