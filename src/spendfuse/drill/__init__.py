"""The fire drill: disasters rehearsed against a config, through the real gate, in virtual time and with no provider."""
