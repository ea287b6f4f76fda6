"""How the screen looks: themes, the start header, bars, and small pictures."""
