"""Where a release can go: a file a scheme, with FORM, `look` and `send`. https is spoken, and http with this machine only."""
