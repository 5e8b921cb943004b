"""The only files with loops over rows: row statistics by kind of prediction, and the fold that adds them up."""
