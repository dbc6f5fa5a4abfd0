"""How the parts of a world model are trained and put together."""
