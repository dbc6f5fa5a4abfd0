"""What every long program needs: settings, locks, checkpoints, one line for an error."""
