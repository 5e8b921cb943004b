"""Where parts run: one loop that measures, and the engines around it."""
