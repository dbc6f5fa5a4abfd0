"""The real env, who acts in it, and episodes played there and in imagination."""
