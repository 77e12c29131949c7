"""Doctor: what this library finds on a machine, what that means, and what to do about it."""
