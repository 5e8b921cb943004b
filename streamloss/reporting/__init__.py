"""From a state to a report, and from a report to what people and programs read."""
