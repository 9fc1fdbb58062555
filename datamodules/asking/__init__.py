"""Asking language models: one chat client, one ledger of what was asked, batch files; below voters and builder."""
