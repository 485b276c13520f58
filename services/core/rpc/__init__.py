"""Both ends of a call: the server that every service runs in, and what clients and servers share."""
