"""One file for each MPE scenario."""
