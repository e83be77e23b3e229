"""From a config to a record: plan, identity, loading, and the measurements."""
