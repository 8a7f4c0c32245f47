"""Networks with memory, and the learner on windows of steps."""
