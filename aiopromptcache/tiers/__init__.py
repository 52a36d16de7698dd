"""Where answers are kept: the protocol, and the tiers that come with the library."""
