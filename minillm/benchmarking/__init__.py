"""How fast the project is, measured beside its peers: one file a question, each contestant in a process of its own."""
