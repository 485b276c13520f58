"""What every process is made of: settings, server, errors, batching, images, releases."""
