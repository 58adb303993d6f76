"""The command line: parse, call, print. One file a verb; no logic, no torch at import."""
