"""The parts of `scripts/bench`: what is measured (`cases`), who is measured (`peers`), how (`measuring`), the `table`."""
