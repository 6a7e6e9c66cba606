"""Images: decoded, brought to one size, and made into views."""
