"""What every process is made of. Imports go down this list, never up; import-linter holds it.

probe       asks a server's health, from a shell
rpc         the server that every service runs in; channels, deadlines, TLS, tokens, errors as statuses
commands    how a command ends, what it prints; what the services' precompute have in common
batching    how callers share a model: permits, batches, what is known already; what a release adds to it
advisors    an advisor as a folder
releases    reference data: written once, verified, swapped while it is served
images      photographs, from bytes to pixels
models      devices, and how large libraries are loaded; for the model services alone
files       files that change, that are written whole, that have one writer, that people write
telemetry   logs, metrics, traces
settings, identifiers, dimensions, errors
            the words that all of these have in common
"""
