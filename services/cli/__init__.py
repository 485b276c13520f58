"""The `mondrian` command: starts the services, asks the gateway, prepares and mends what they need."""
