"""The parts of `scripts/bench`: what is measured (`cases`), who measures (`peers`), how (`measuring`), what is shown (`table`)."""
