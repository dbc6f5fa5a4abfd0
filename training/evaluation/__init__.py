"""Outcomes, figures and pictures."""
