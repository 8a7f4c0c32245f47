"""What the tuned configurations learn, and what each of their parts is worth."""
