"""The commands, one module each; its ``command`` holds the options and the help."""
