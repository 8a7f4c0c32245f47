"""What a run records while it goes on, in files, on the screen and on trackers, and what reads it back."""
