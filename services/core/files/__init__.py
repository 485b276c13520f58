"""Files: noticing changes, writing whole ones, one writer a folder, fields of people's YAML."""
