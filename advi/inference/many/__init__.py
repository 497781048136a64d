"""The automatic plan of many fits as one compiled program."""
