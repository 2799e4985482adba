"""How the micro checkpoint is made: synthesis, lessons, training, export. Run by ../make_checkpoint.py."""
