"""How one chain and what was measured on it are shown to a person."""
