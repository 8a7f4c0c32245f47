"""What stops learning in two MPE tasks: probes that change one thing of the task or of who learns."""
