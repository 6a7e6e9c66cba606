"""Which version becomes champion, and why."""
