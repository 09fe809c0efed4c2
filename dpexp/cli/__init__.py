"""The command line: a command, then overrides key=value. Configurations stop here."""
