"""The scorer: eight technical scores of a photograph, and the distribution that an advisor's references have."""
