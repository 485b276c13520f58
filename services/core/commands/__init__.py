"""What the commands are made of: how they end, what they print, what pre-computing has in common."""
