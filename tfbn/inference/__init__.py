"""What you do to a finished model: look at its statistics, renew them, fold them away, export it."""
