"""What learns: encoders, self-supervised methods, and the learners for few labels."""
