"""Prediction files: whatever a loop holds becomes Arrow columns (`arrays`), row groups and a file (`writer`)."""
