"""The parts of `scripts/bench`: what is measured (`cases`), and who measures against whom (`peers`)."""
