"""The critic: written critiques by a vision-language model, in the voice of an advisor's adapter."""
