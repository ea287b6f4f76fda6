"""How the pocket model is trained; nothing here is needed to run it."""
