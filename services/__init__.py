"""Mondrian's services and command line."""
