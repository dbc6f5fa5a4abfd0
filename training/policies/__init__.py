"""How policies are cloned and refined."""
