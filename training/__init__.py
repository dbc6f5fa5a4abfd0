"""Builds world models and policies; run as ``python -m training.NAME``. Not part of the wheel."""
