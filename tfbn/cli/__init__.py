"""The command. The only room that prints or parses arguments."""
