"""The command line of genzoo: one file a command, and no logic of its own."""
