"""One imagined episode after another, looked at and driven by a person or a policy."""
