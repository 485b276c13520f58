"""The gateway: runs the parts that a mode names, in parallel, as one answer. No model and no state of its own."""
