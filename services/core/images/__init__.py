"""Photographs: from bytes to pixels, within limits."""
