"""Ray Train: the loop on one worker, the launcher, checkpoints and resuming."""
