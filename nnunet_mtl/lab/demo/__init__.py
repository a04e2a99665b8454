"""The demonstration: the whole chain of commands on data made here, and its page."""
