"""From snapshots to checkpoints: the stages, and one turn of the loop."""
