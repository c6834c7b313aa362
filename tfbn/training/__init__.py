"""One network's training: feeds, compiled steps, the loop, checkpoints."""
