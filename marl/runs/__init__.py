"""Run directories: checkpoints, metrics, locks, versions; everything that must survive a crash."""
