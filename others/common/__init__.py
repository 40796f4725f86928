"""What the tools share: the command line, files, records, models, pictures."""
