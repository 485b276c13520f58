"""What loads a model: its device and arithmetic, its folder. Only model services import from here."""
