"""Methods that contrast images with each other."""
