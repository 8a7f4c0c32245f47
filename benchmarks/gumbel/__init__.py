"""Every number and figure of docs/gumbel.md."""
